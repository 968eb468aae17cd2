"""Many edits in a memory, beside as many written one after another: what is said, found, left alone, and what it costs.

    python benchmarks/entries.py run rase --routers states,classifier,string
    python benchmarks/entries.py run recipe,lte --prepared recipe.safetensors --prepared lte.safetensors
    python benchmarks/entries.py run memit,alphaedit --step 10
    python benchmarks/entries.py run rase,alphaedit --model smollm2-135m --sizes 1,10,100 --count 20
    python benchmarks/entries.py keep       # into entries.parquet
    python benchmarks/entries.py table      # shares with intervals, as Markdown

The same edits are asked about whatever else is there, the first `count`: alone, in groups of ten, among a hundred and
among a thousand. Of FactWorld they are test records of different subjects, and the others are of the test part and,
fresh, of the train part's subjects; of other models CounterFact's. No subject of the others stands in a question.
`right`: the answer, written freely, is the new target where that is wanted, and word for word as before where it is
not; `hit`: a question about an edit comes to it; `alarm`: another question comes to any. An oracle lets every question
about an edit come to it, and no other. One method, one file: a run goes on with the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from memory_records import ALONE, EMBEDDED, real_records
from memory_tables import share
from results import replace_rows
from routed_records import MEANT, ids_of, questions, rerouted
from routed_records import records as test_records

import editing
import tracer
from editing.datasets import EditRecord
from editing.health.drift import Drift
from editing.memories import Decision, Memory, Router
from editing.memories.directed import Directed
from editing.methods.compute import method_named
from editing.methods.context import EditContext
from editing.methods.routed.routers import router_for
from editing.questions.match import says
from tracer import Model
from tracer.engine.memories import remembering
from tracer.plots.export import replacing
from tracer.progress import track

HERE = Path(__file__).parent
RUNS, KEPT = Path("runs") / "entries", HERE / "entries.parquet"
ORACLE = "oracle"
TOKENS = {EMBEDDED: 4}
LONGER = 8  # tokens of an answer of other models
KINDS = {
    "rewrite": "rewrite",
    "paraphrase": "paraphrases",
    ALONE: "paraphrases alone",
    "neighbour": "neighbours",
    "same_subject": "other facts",
}
TEXT, COVARIANCE_TOKENS = "text/valid.txt", 100_000
SOLVED = ("rome", "r_rome", "memit", "alphaedit", "emmet")
app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


def records(model: Model, count: int, entries: int) -> list[EditRecord]:
    """Records to edit, those that are asked about first; of the others no subject stands in a question."""
    if model.name == EMBEDDED:
        every = [*test_records(10_000), *editing.load_records("factworld:fresh")]
    else:
        every = real_records(0, entries + 200)
    asked = every[:count]
    texts = [one.prompt for _, one in questions(asked)]
    prompts: set[str] = set()
    found = list(asked)
    for record in every[count:]:
        request = record.requests()[0]
        if request.text not in prompts and not any(request.subject in text for text in texts):
            prompts.add(request.text)
            found.append(record)
    if len(found) < entries:
        raise SystemExit(f"there are {len(found)} records of such subjects; ask for no more entries")
    return found[:entries]


class Asking:
    """Questions about the first records, and what the unedited model says of them."""

    def __init__(self, model: Model, some: Sequence[EditRecord]) -> None:
        self.model, self.some, self.asked = model, some, questions(some)
        self.prompts = [one.prompt for _, one in self.asked]
        self.ids = [ids_of(model, prompt) for prompt in self.prompts]
        self.before = self._said(range(len(self.asked)))

    def _said(self, places: Sequence[int]) -> list[str]:
        tokens = TOKENS.get(self.model.name, LONGER)
        return tracer.generate(self.model, [self.prompts[i] for i in places], max_new_tokens=tokens)

    def rows(self, first: int, size: int, memory: Memory | None, **head: Any) -> list[dict[str, Any]]:
        """Rows of the questions about records `first` to `first + size`, as the model is; routes are the memory's."""
        own = [i for i, (place, _) in enumerate(self.asked) if first <= place < first + size]
        routes: Sequence[Any] = [None] * len(own)
        if memory is not None:
            routes = memory.routes(self.model, [self.ids[i] for i in own])
        found = []
        for i, text, route in zip(own, self._said(own), routes, strict=True):
            place, one = self.asked[i]
            meant = one.kind in MEANT
            values = {"right": says(text, one.answers) if meant else text == self.before[i]}
            if route is not None:
                values["hit" if meant else "alarm"] = bool(route.hit and (route.entry == place - first or not meant))
            record = self.some[place]
            label = {**head, "kind": one.kind, "case_id": record.case_id, "subject": record.rewrites[0].subject}
            found += [{**label, "question": i, "metric": name, "value": value} for name, value in values.items()]
        return found

    def by_an_oracle(self, memory: Memory) -> AbstractContextManager[Any]:
        """Context in which questions about edits come to them, and others to none."""
        decisions = {
            ids: Decision(place) for ids, (place, one) in zip(self.ids, self.asked, strict=True) if one.kind in MEANT
        }
        return remembering(self.model, [Directed(memory, decisions)])


def groups(count: int, size: int) -> Iterator[int]:
    """Where groups of so many begin, as far as they are asked about."""
    yield from range(0, count if size < count else 1, size)


def remembered(
    model: Model, asking: Asking, edit: Any, sizes: Sequence[int], head: dict[str, Any], router: Router | None
) -> list[dict[str, Any]]:
    """Rows of parts of a memory, by its own router or another, and of an oracle with all of it."""
    rows: list[dict[str, Any]] = []
    drift, head = Drift.recorded(model), {**head, "how": "in memory"}
    with edit.applied(model):
        memory: Any = next(each for each in model.memories if isinstance(each, Memory))
        memory = memory if router is None else rerouted(model, memory, router)
        for size in sizes:
            for first in groups(len(asking.some), size):
                part = memory.acts.taking(memory, range(first, first + size))
                with remembering(model, [part]):
                    rows += asking.rows(first, size, part, **head, entries=size)
            with remembering(model, [memory.acts.taking(memory, range(size))]):
                rows += _drifted(drift, model, {**head, "entries": size})
        with asking.by_an_oracle(memory):
            rows += asking.rows(0, sizes[-1], None, **{**head, "router": ORACLE}, entries=sizes[-1])
    return rows


def in_turn(
    model: Model,
    asking: Asking,
    some: Sequence[EditRecord],
    method: str,
    sizes: Sequence[int],
    step: int,
    given: dict[str, Any],
    head: dict[str, Any],
) -> list[dict[str, Any]]:
    """Rows of edits written one after another, or so many at a time, and nothing taken back."""
    rows: list[dict[str, Any]] = []
    drift, editor, seconds = Drift.recorded(model), editing.Editor(model), 0.0
    head = {**head, "how": "in turn"}
    for size in [size for size in sizes if size < len(asking.some)]:
        for first in track(list(groups(len(asking.some), size)), f"{method}, groups of {size}"):
            for start in range(first, first + size, step):
                editor.edit(_requests(some[start : min(start + step, first + size)]), method, **given)
            rows += asking.rows(first, size, None, **head, entries=size)
            editor.checkout(0)
    left = [size for size in sizes if size >= len(asking.some)]
    for start in track(range(0, max(left, default=0), step), f"{method}, one after another"):
        began = time.process_time()
        editor.edit(_requests(some[start : start + step]), method, **given)
        seconds += time.process_time() - began
        if start + step in left:
            rows += asking.rows(0, start + step, None, **head, entries=start + step)
            label = {**head, "entries": start + step}
            rows += [*_drifted(drift, model, label), _cost(label, "seconds", seconds / (start + step))]
    editor.checkout(0)
    return rows


def _requests(some: Sequence[EditRecord]) -> list[Any]:
    return [request for record in some for request in record.requests()]


def _drifted(drift: Drift, model: Model, head: dict[str, Any]) -> list[dict[str, Any]]:
    found = drift.read(model)
    values = {"kl drift": found.kl, "perplexity ratio": found.perplexity / found.before}
    return [_cost(head, name, value) for name, value in values.items()]


def _cost(head: dict[str, Any], metric: str, value: float) -> dict[str, Any]:
    return {**head, "kind": "", "case_id": "", "subject": "", "question": -1, "metric": metric, "value": float(value)}


@app.command()
def run(
    methods: str,
    model: Annotated[str, typer.Option(help="The embedded one by default.")] = EMBEDDED,
    routers: Annotated[str, typer.Option(help="With commas between; the method's own by default.")] = "",
    sizes: Annotated[str, typer.Option(help="Numbers of edits, ascending.")] = "1,10,100,1000",
    count: Annotated[int, typer.Option(help="Edits that are asked about.")] = 40,
    step: Annotated[int, typer.Option(help="Edits at a time of what changes weights.")] = 1,
    prepared: Annotated[list[Path] | None, typer.Option(help="Files of what was prepared.")] = None,
    payload: Annotated[str, typer.Option(help="Of recipe: soft, or text.")] = "",
) -> None:
    """Measure methods, one file each; one whose file is there is left out."""
    torch.set_num_threads(1)
    RUNS.mkdir(parents=True, exist_ok=True)
    loaded = tracer.load(None if model == EMBEDDED else model)
    every = [int(each) for each in sizes.split(",")]
    some = records(loaded, count, every[-1])
    asking = Asking(loaded, some[:count])
    typer.echo(f"{len(some)} edits, {len(asking.asked)} questions about {count}")
    made = [editing.load_prepared(path) for path in prepared or ()]
    for method in methods.split(","):
        name, edit, seconds = f"{method} {payload}".strip(), None, 0.0
        given: dict[str, Any] = {"known": "edit", "check": None}
        given |= {"prepared": made} if made else {}
        given |= {"payload": payload} if payload else {}
        given |= _covariance(loaded, method)
        for router in routers.split(","):
            path = RUNS / f"{loaded.name}-{name}-{router or 'own'}-{count}-{every[-1]}.parquet"
            if path.exists():
                continue
            head = {"model": loaded.name, "method": name, "router": router or "own"}
            if method_named(method).writes and method != "lte":
                rows = in_turn(loaded, asking, some, method, every, step, given, head)
            else:
                if edit is None:
                    began = time.process_time()
                    edit = editing.compute_edit(loaded, _requests(some), method, **given)
                    seconds = (time.process_time() - began) / len(some)
                found = router_for(EditContext(loaded, prepared=made or None), router, {}, method) if router else None
                rows = remembered(loaded, asking, edit, every, head, found)
                rows.append(_cost({**head, "how": "in memory", "entries": every[-1]}, "seconds", seconds))
            with replacing(path) as temporary:
                pd.DataFrame(rows).astype({"value": "float64"}).to_parquet(temporary, index=False)
            typer.echo(path.name)


def _covariance(model: Model, method: str) -> dict[str, Any]:
    """Of English text, for what solves, on models that bring none."""
    if model.name == EMBEDDED or method not in (*SOLVED, "rase"):
        return {}
    from editing.methods.rome import default_layer
    from editing.methods.value.spread import default_layers

    layers = (default_layer(model),) if method in ("rome", "r_rome", "rase") else default_layers(model)
    text = Path(os.environ["TRACER_DATA"]) / TEXT
    return {"covariance": editing.estimate_covariance(model, layers, text=text, max_tokens=COVARIANCE_TOKENS)}


@app.command()
def keep() -> None:
    """Write what was measured beside this file."""
    found = pd.concat([pd.read_parquet(path) for path in sorted(RUNS.glob("*.parquet"))], ignore_index=True)
    replace_rows(KEPT, found, by=("model", "method", "router"))


@app.command()
def table(model: str = EMBEDDED) -> None:
    """Per cent with 95 % intervals over subjects: right by kind of question, hits, false alarms; and costs."""
    print(by_size(model).to_markdown(index=False))


def by_size(model: str = EMBEDDED) -> pd.DataFrame:
    """The table, as text."""
    found: Any = pd.read_parquet(KEPT).astype({"value": "float64"})
    lines = []
    for key, own in found[found["model"] == model].groupby(["method", "router", "entries"], sort=False):
        method, router, entries = key if isinstance(key, tuple) else (key, "", 0)
        line = {"method": method, "router": router, "N": entries}
        right = own[own["metric"] == "right"]
        asked = {kind: right[right["kind"] == kind] for kind in KINDS}
        line |= {KINDS[kind]: share(each) for kind, each in asked.items() if len(each)}
        line |= {f"{name}s": share(own[own["metric"] == name]) for name in ("hit", "alarm")}
        costs = own[own["case_id"] == ""].set_index("metric")["value"]
        line |= {name: f"{costs[name]:.3g}" for name in ("seconds", "kl drift", "perplexity ratio") if name in costs}
        lines.append(line)
    return pd.DataFrame(lines).fillna("")


if __name__ == "__main__":
    app()
