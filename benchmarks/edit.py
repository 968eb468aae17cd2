"""How much faster are target states found together? MEMIT's states for many requests against plain loops.

Two plain versions of the same search: one request at a time, as the published code does it (whole forwards of all of
a request's prompts, logits at every position), and all requests at once in such forwards. Each runs in a process of its
own, so that the memory it adds at its peak can be told. Every version makes the same number of updates.

With --one: how long does one edit take in an editor, against the former way? That measured everything anew for every
edit, ran rows of one lookup together, through every block, and took half a Polyak step to the end of every search.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

import tracer
from editing.edits.edit import Edit
from editing.ledger.editor import Editor
from editing.methods.compute import compute_edit
from editing.methods.context import EditContext, Measured
from editing.methods.peak_memory import peak_memory
from editing.methods.value import descent
from editing.methods.value.context_templates import context_templates
from editing.methods.value.objective import Objective
from editing.methods.value.prompts import essence_rows, rewriting_rows
from editing.methods.value.search import Subject, optimise
from editing.request import EditRequest
from tracer.engine.aligned import Trials
from tracer.engine.batch import padded
from tracer.engine.hooks import Site, capture, frozen

RATE, DECAY, CLAMP = 0.5, 0.5, 0.75
GOAL = Objective(v_steps=20, v_lr=RATE, v_weight_decay=DECAY, kl_factor=0.0625, clamp=CLAMP, stop=0.0)
WAYS = ("together", "one at a time", "naive batch")


def subjects(model: tracer.Model, count: int) -> list[Subject]:
    """Rows of requests from FactWorld's validation records, in MEMIT's six contexts."""
    templates = context_templates(model, [(10, 5)], seed=0)
    records = Random(0).sample(tracer.factworld.records("validation"), count)
    return [
        Subject(
            tuple(rewriting_rows(model, request, templates, "subject_last")),
            tuple(essence_rows(model, request, ["{} is a"], "subject_last", "subject")),
        )
        for request in map(EditRequest.of, records)
    ]


def plain(model: tracer.Model, some: Sequence[Subject], layer: int) -> list[Tensor]:
    """The search with whole forwards, all of ``some`` in one batch; deltas [d]."""
    rows = [row for subject in some for row in (*subject.rewriting, *subject.essence)]
    owner = [i for i, subject in enumerate(some) for _ in (*subject.rewriting, *subject.essence)]
    ids = padded(model, rows)
    at, where = torch.arange(len(rows)), torch.tensor([row.lookup for row in rows])
    counts = torch.tensor([len(row.read) for row in rows])
    reads = torch.tensor([position for row in rows for position in row.read])
    site = Site("hidden", layer)
    with torch.no_grad():
        state = capture(model, ids, [site])[site][at, where]
    init = [state[owner.index(i)].norm() for i in range(len(some))]
    deltas = [torch.zeros(model.d_model, requires_grad=True) for _ in some]
    adam = torch.optim.Adam(deltas, lr=RATE)
    before: dict[int, Tensor] = {}

    def add(_: torch.nn.Module, __: tuple, output: Tensor | tuple) -> Tensor | tuple:
        hidden = output if isinstance(output, Tensor) else output[0]
        hidden = hidden.index_put((at, where), torch.stack([deltas[i] for i in owner]), accumulate=True)
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    for step in range(GOAL.v_steps):
        handle = model.module("hidden", layer).register_forward_hook(add)
        try:
            logp = model.hf(ids).logits.log_softmax(-1)
        finally:
            handle.remove()
        loss = torch.zeros(())
        for delta, size in zip(deltas, init, strict=True):
            loss = loss + DECAY * delta.norm() / size**2
        picked = logp[at.repeat_interleave(counts), reads].split(counts.tolist())
        for place, (row, i, each) in enumerate(zip(rows, owner, picked, strict=True)):
            if row.target:
                loss = loss - each[range(len(row.target)), list(row.target)].mean() / len(some[i].rewriting)
            else:
                first = before.setdefault(place, each.detach())
                loss = loss + GOAL.kl_factor * F.kl_div(first, each, log_target=True, reduction="batchmean")
        if step == GOAL.v_steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        with torch.no_grad():
            for delta, size in zip(deltas, init, strict=True):
                delta.mul_(min(1.0, float(CLAMP * size / delta.norm())))
    return [delta.detach() for delta in deltas]


def run(way: str, count: int, layer: int) -> dict[str, float | list[float]]:
    """Seconds and peak memory of one way, and the lengths of what it found."""
    torch.set_num_threads(1)
    model = tracer.load()
    some = subjects(model, count)
    with frozen(model):
        plain(model, some[:1], layer)  # warms up
        began = time.process_time()
        with peak_memory(model) as memory:
            if way == "together":
                found = [value.delta[0] for value in optimise(model, some, [("hidden", layer)], GOAL)]
            elif way == "one at a time":
                found = [plain(model, [subject], layer)[0] for subject in some]
            else:
                found = plain(model, some, layer)
        seconds = time.process_time() - began
    return {"seconds": seconds, "bytes": memory(), "values": torch.stack(found).flatten().tolist()}


class Former(Trials):
    """Knows of no model that it takes rows of any length together."""

    def takes(self, *_: Any) -> bool:
        return False


@contextmanager
def former_steps() -> Iterator[None]:
    """Context in which a search goes by the NLL to its end, and never by the log-odds."""
    now = descent.remaining
    descent.remaining = lambda nll, stop: nll
    try:
        yield
    finally:
        descent.remaining = now


def one_edit(name: str | None, count: int, method: str) -> None:
    """Medians of processor time and of seconds of an edit, and how far the changes of two ways are apart."""
    torch.set_num_threads(1)
    model = tracer.load(name)
    requests = list(map(EditRequest.of, Random(0).sample(tracer.factworld.records("validation"), count + 1)))
    editor = Editor(model)

    def former(request: EditRequest) -> Edit:
        measured = Measured()
        measured.trials = Former()
        context = EditContext(editor.context().model, origin=editor.origin, measured=measured)
        with former_steps():
            edit = compute_edit(model, request, method, known="edit", check="warn", context=context)
        editor.apply(edit)
        return edit

    def between(request: EditRequest) -> Edit:
        with former_steps():
            return now(request)

    def now(request: EditRequest) -> Edit:
        return editor.edit(request, method, known="edit", check="warn")

    ways = {"former": former, "former steps": between, "now": now}
    spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    apart, longer = [], []
    for place, request in enumerate(requests):
        edits = {}
        for way, make in ways.items():
            began = time.process_time(), time.perf_counter()
            edits[way] = make(request)
            if place:  # the first warms up
                spent[way].append((time.process_time() - began[0], time.perf_counter() - began[1]))
            editor.undo()
        changes = {way: torch.cat([each.flatten() for each in edit.to_dense().values()]) for way, edit in edits.items()}
        apart.append(float((changes["former"] - changes["former steps"]).norm() / changes["former"].norm()))
        longer.append(float(changes["now"].norm() / changes["former"].norm()))
    typer.echo(f"{method} on {model.name}, {count} edits in one editor, one thread")
    medians = {way: [statistics.median(each) for each in zip(*found, strict=True)] for way, found in spent.items()}
    for way, (cpu, wall) in medians.items():
        ratio = medians["former"][0] / cpu
        typer.echo(f"{way:12} {cpu:6.3f} s of processor time ({ratio:.1f}x), {wall:6.3f} s")
    typer.echo(
        f"with the former steps changes are at most {max(apart):.0e} of their norm apart; now they are "
        f"{statistics.median(longer):.2f} times as long"
    )


def main(
    count: Annotated[int, typer.Option(help="requests")] = 64,
    layer: Annotated[int, typer.Option(help="where the states are")] = 4,
    way: Annotated[str | None, typer.Option(help="run one way only, and print json")] = None,
    one: Annotated[bool, typer.Option(help="time one edit in an editor instead")] = False,
    model: Annotated[str | None, typer.Option(help="with --one: of another model than FactWorld")] = None,
    method: Annotated[str, typer.Option(help="with --one")] = "rome",
) -> None:
    if one:
        one_edit(model, count, method)
        return
    if way is not None:
        typer.echo(json.dumps(run(way, count, layer)))
        return
    results = {}
    for each in WAYS:
        command = [sys.executable, __file__, "--way", each, "--count", str(count), "--layer", str(layer)]
        results[each] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    base = torch.tensor(results["one at a time"]["values"])
    typer.echo(f"{count} requests, {GOAL.v_steps} losses each, layer {layer}, one thread")
    for each, result in results.items():
        ratio = results["one at a time"]["seconds"] / result["seconds"]
        difference = float((torch.tensor(result["values"]) - base).norm() / base.norm())
        typer.echo(
            f"{each:14} {result['seconds']:7.1f} s of processor time ({ratio:4.1f}x)"
            f"  {result['bytes'] / 2**20:7.0f} MiB at the peak  values differ by {difference:.1e}"
        )


if __name__ == "__main__":
    typer.run(main)
