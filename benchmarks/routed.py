"""Edits that a router switches on, on FactWorld: N of them in the memory, by several routers, beside ROME in sequence.

    python benchmarks/routed.py routed --count 40 --entries 100
    python benchmarks/routed.py sequence --count 40 --entries 100
    python benchmarks/routed.py cost

The first `count` edits are asked about, whatever else is in the memory. `right` is the share of answers that are the
new target where that is wanted, or as before where it is not; `hit` the share of questions about an edit that come to
it; `alarm` the share of other questions that come to any.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from routed_records import MEANT, ids_of, questions, records, rerouted

import editing
import tracer
from editing.datasets import EditRecord
from editing.memories import Memory, Router, attached, directed
from editing.memories.routed import router_of
from editing.questions.match import says
from tracer import Model

TOKENS = 4
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)
Count = Annotated[int, typer.Option(help="Edits that are asked about.")]
Entries = Annotated[int, typer.Option(help="Edits in the memory, at most.")]


def made(model: Model, some: Sequence[EditRecord]) -> tuple[Memory, float]:
    """A memory with one entry for each record, in their order, and seconds of processor time an edit."""
    began = time.process_time()
    edit = editing.compute_edit(
        model, [one for each in some for one in each.requests()], "rase", known="edit", check=None
    )
    memory = edit.memories[0].on(None)
    assert memory is not None
    return memory, (time.process_time() - began) / len(some)


def scored(
    asked: Sequence[tuple[int, Any]],
    said: Sequence[str],
    before: Sequence[str],
    routes: Sequence[Any],
    head: dict[str, Any],
) -> list[dict[str, Any]]:
    rows = []
    for (place, one), text, was, route in zip(asked, said, before, routes, strict=True):
        meant = one.kind in MEANT
        right = says(text, one.answers) if meant else text == was
        acts = None if route is None else bool(route.hit and (route.entry == place or not meant))
        rows.append({**head, "kind": one.kind, "right": right, "hit" if meant else "alarm": acts})
    return rows


def shown(rows: list[dict[str, Any]], by_columns: Sequence[str]) -> None:
    frame = pd.DataFrame(rows)
    for name in ("hit", "alarm"):
        frame[name] = pd.to_numeric(frame.get(name), errors="coerce")
    table: Any = frame.groupby([*by_columns, "kind"], sort=False)[["right", "hit", "alarm"]].mean()
    print((100 * table).round(1).assign(n=frame.groupby([*by_columns, "kind"], sort=False).size()).to_string())


@app.command()
def routed(count: Count = 40, entries: Entries = 100) -> None:
    """1, 10 and all edits in the memory by the default router; all of them by the others, and by an oracle."""
    torch.set_num_threads(1)
    model, some = tracer.load(), records(entries)
    memory, seconds = made(model, some)
    asked = questions(some[:count])
    prompts = [one.prompt for _, one in asked]
    ids = [ids_of(model, prompt) for prompt in prompts]
    before = tracer.generate(model, prompts, max_new_tokens=TOKENS)
    told = f"{seconds:.2f} s and {memory.nbytes / len(some):.0f} bytes an edit"
    print(f"{len(some)} edits, {len(asked)} questions about {count}; {told}", flush=True)
    rows: list[dict[str, Any]] = []
    for size in (1, 10, entries):
        for start in range(0, count, size):
            places = range(start, min(start + size, entries))
            own = [i for i, (place, _) in enumerate(asked) if place in places]
            part = memory.acts.taking(memory, list(places))
            routes = part.routes(model, [ids[i] for i in own])
            with attached(model, part):
                said = tracer.generate(model, [prompts[i] for i in own], max_new_tokens=TOKENS)
            moved = [(asked[i][0] - start, asked[i][1]) for i in own]
            rows += scored(moved, said, [before[i] for i in own], routes, {"router": "states", "N": size})
    shown(rows, ("router", "N"))
    rows = []
    prepared = editing.load_prepared("editing/data/prepared/rase-factworld.safetensors")
    from editing.methods.routed.routers import classifier_of, measured_of

    routers: dict[str, Router] = {name: measured_of(prepared, name) for name in ("margin", "nearest", "overlap")}
    routers["classifier"] = classifier_of(editing.load_prepared("editing/data/prepared/serac-factworld.safetensors"))
    routers |= {"string": Router("threshold", "string", {"threshold": 0.0}), "random": Router("nearest", "random")}
    for name, router in routers.items():
        other = rerouted(model, memory, router)
        routes = other.routes(model, ids)
        with attached(model, other):
            said = tracer.generate(model, prompts, max_new_tokens=TOKENS)
        rows += scored(asked, said, before, routes, {"router": name, "N": entries})
    like = {
        ids[i]: ids_of(model, some[place].requests()[0].text)
        for i, (place, one) in enumerate(asked)
        if one.kind in MEANT
    }
    string = rerouted(model, memory, routers["string"])
    with attached(model, string), directed(model, memory.name, like):
        said = tracer.generate(model, prompts, max_new_tokens=TOKENS)
    rows += scored(asked, said, before, [None] * len(asked), {"router": "oracle", "N": entries})
    shown(rows, ("router", "N"))


@app.command()
def sequence(count: Count = 40, entries: Entries = 100, method: str = "rome") -> None:
    """The same edits written into the weights, one after another; the first `count` are asked about at the end."""
    torch.set_num_threads(1)
    model, some = tracer.load(), records(entries)
    asked = questions(some[:count])
    prompts = [one.prompt for _, one in asked]
    before = tracer.generate(model, prompts, max_new_tokens=TOKENS)
    editor, rows = editing.Editor(model), []
    for place, record in enumerate(some, 1):
        editor.edit(list(record.requests()), method, known="edit", check=None)
        if place in (10, entries):
            inside = [i for i, (at, _) in enumerate(asked) if at < place]
            said = tracer.generate(model, [prompts[i] for i in inside], max_new_tokens=TOKENS)
            part = [asked[i] for i in inside]
            rows += scored(part, said, [before[i] for i in inside], [None] * len(part), {"router": method, "N": place})
            print(f"{place} edits", flush=True)
    shown(rows, ("router", "N"))


@app.command()
def cost(entries: Entries = 100) -> None:
    """Milliseconds of processor time for a query: its state, and the search among N entries."""
    torch.set_num_threads(1)
    model = tracer.load()
    prompts = [ids_of(model, record.requests()[0].text) for record in records(50)]
    draw = torch.Generator().manual_seed(0)
    router = router_of(made(model, records(1))[0])
    queries = router.queries(model, prompts)
    began = time.process_time()
    router.queries(model, prompts)
    print(f"state: {1e3 * (time.process_time() - began) / len(prompts):.2f} ms")
    for size in (1, 100, 10_000):
        keys = torch.randn(size, queries.shape[1], generator=draw)
        began = time.process_time()
        for row in router.own_features.scores(router, queries, keys):
            router.decided(row)
        print(f"search among {size}: {1e3 * (time.process_time() - began) / len(prompts):.2f} ms")


if __name__ == "__main__":
    app()
