"""How much faster are target states found together? MEMIT's states for many requests against plain loops.

Two plain versions of the same search: one request at a time, as the published code does it (whole forwards of all of
a request's prompts, logits at every position), and all requests at once in such forwards. Each runs in a process of its
own, so that the memory it adds at its peak can be told. Every version makes the same number of updates.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from random import Random
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from torch import Tensor

import tracer
from editing.methods.peak_memory import peak_memory
from editing.methods.value.context_templates import context_templates
from editing.methods.value.prompts import essence_rows, rewriting_rows
from editing.methods.value.search import Objective, Subject, optimise
from editing.request import EditRequest
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


def main(
    count: Annotated[int, typer.Option(help="requests")] = 64,
    layer: Annotated[int, typer.Option(help="where the states are")] = 4,
    way: Annotated[str | None, typer.Option(help="run one way only, and print json")] = None,
) -> None:
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
