"""RECIPE on FactWorld: its nets trained, and its parts apart, on edits of subjects that it never met.

    python benchmarks/recipe.py train recipe.safetensors --steps 3000
    python benchmarks/recipe.py table recipe.safetensors --count 60
    python benchmarks/recipe.py table recipe.safetensors --payload text --routers states

Trained on fresh records of the train part's subjects, validated on the validation part, measured on the test part; no
subject is in two of them. All edits of the table are in memory at once. "right": the answer is the target in full where
the edit is meant, and as before where it is not, token by token, teacher forced; "hit": share of questions routed to
their own edit, and of other questions, routed to any.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Annotated, Any

import pandas as pd
import typer
from memory_tables import share

import editing
import tracer
from editing.memories import Decision, Memory, Route, attached
from editing.memories.directed import Directed
from tracer.engine import Line
from tracer.engine.follow import follow
from tracer.engine.memories import remembering
from tracer.facts.readout import Readout

ORACLE, NEVER = "oracle", "never"
app = typer.Typer(add_completion=False)


@app.command()
def train(
    out: Path,
    steps: int = 3000,
    seed: int = 0,
    count: Annotated[int, typer.Option(help="Records to learn from; 0: all.")] = 0,
    settings: Annotated[str, typer.Option(help="Others, as json.")] = "{}",
) -> None:
    """Train the nets; a run that was stopped goes on."""
    records = editing.load_records("factworld:fresh")
    records = Random(0).sample(records, count) if count else records
    held_out = editing.load_records("factworld", split="validation")
    began = time.process_time()
    more = {"steps": steps, **json.loads(settings)}
    made = editing.prepare(tracer.load(), "recipe", records, held_out=held_out, seed=seed, **more)
    made.save(out)
    print(made.to_frame().round(3).to_string(index=False))
    print(f"{made.nbytes / 1e6:.2f} MB, {time.process_time() - began:.0f} s of one core in this run")


@app.command()
def table(
    prepared: Path,
    count: int = 60,
    payload: str = "soft",
    routers: str = "sentinel,fixed,states,overlap,string",
    seed: int = 0,
) -> None:
    """Routed, by an oracle, and never."""
    model, made = tracer.load(), editing.load_prepared(prepared)
    records = Random(seed).sample(editing.load_records("factworld", split="test"), count)
    questions = [(place, each) for place, record in enumerate(records) for each in _questions(record)]
    prompts, lines = [], []
    for _, question in questions:
        readout = Readout.of(model, question.fact(question.answer).align(model))
        prompts.append(tuple(readout.ids[: readout.read[0] + 1]))
        lines.append(Line(prompts[-1], (tuple(readout.target or (0,)),)))
    bare = [each.best[0].tolist() for each in follow(model, lines)]
    requests = [request for record in records for request in record.requests()]
    rows: list[dict[str, Any]] = []
    for router in (*filter(None, routers.split(",")), ORACLE, NEVER):
        named = "string" if router in (ORACLE, NEVER) else router
        began = time.perf_counter()
        edit = editing.compute_edit(
            model, requests, "recipe", prepared=made, router=named, payload=payload, known="edit", check=None
        )
        spent = time.perf_counter() - began
        memory = edit.memories[0].on(None)
        assert isinstance(memory, Memory)
        texts = [entry["prompt"] for entry in memory.acts.entries(memory)]
        own = [texts.index(records[place].requests()[0].text) for place, _ in questions]
        began = time.perf_counter()
        with attached(model, memory):
            routes = memory.routes(model, prompts)
        asking = time.perf_counter() - began
        if router in (ORACLE, NEVER):
            act = [router == ORACLE and each.wants_new for _, each in questions]
            routes = [Route(hit, entry) for hit, entry in zip(act, own, strict=True)]
        decisions = {ids: Decision(route.entry) for ids, route in zip(prompts, routes, strict=True) if route.hit}
        with remembering(model, [Directed(memory, decisions)]):
            said = [each.best[0].tolist() for each in follow(model, lines)]
        for (place, question), line, found, old, route, entry in zip(
            questions, lines, said, bare, routes, own, strict=True
        ):
            wanted = question.wants_new
            right = found == list(line.targets[0]) if wanted else found == old
            hit = route.hit and (route.entry == entry or not wanted)
            subject = records[place].rewrites[0].subject
            row = {"router": router, "kind": question.kind, "right": right, "hit": hit, "subject": subject}
            rows.append(row | {"ms": 1e3 * asking / len(prompts), "edit ms": 1e3 * spent / len(requests)})
    frame = pd.DataFrame(rows)
    print(f"{count} edits of test subjects at once, payload {payload}, {len(questions)} questions")
    for value in ("right", "hit"):
        lines = []
        for router, own in frame.groupby("router", sort=False):
            told = {kind: share(some.assign(value=some[value])) for kind, some in own.groupby("kind", sort=False)}
            lines.append({value: router, **told})
        print(pd.DataFrame(lines).to_markdown(index=False))
    costs: Any = frame.groupby("router", sort=False)[["ms", "edit ms"]].mean()
    print(costs.round(2).to_string())
    print(frame.loc[frame["router"] == NEVER, "kind"].value_counts().to_string())


def _questions(record: Any) -> list[Any]:
    """A record's questions, three of each kind at most."""
    found = []
    for kind in ("rewrite", "paraphrase", "neighbour", "same_subject", "attribute"):
        found += [question for question in record.questions() if question.kind == kind][:3]
    return found


if __name__ == "__main__":
    app()
