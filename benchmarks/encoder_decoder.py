"""What is claimed of encoder-decoder models, measured on the embedded T5: `python benchmarks/encoder_decoder.py`.

It writes `benchmarks/encoder_decoder.json`: mean effects of restoring states of both stacks, and what edits by each
method that takes such models do to the request, to paraphrases, to neighbours and to the subject's other facts. With
`--methods` and `--no-traces` the rest of the file stays. Trained editors learn from FactWorld's train records first.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import editing
import tracer
from editing.datasets import in_spans
from editing.methods.context import EditContext
from tracer import factworld
from tracer.engine import own_answers
from tracer.facts import Fact
from tracer.progress import track
from tracer.statistics import clustered_mean

NOISE = tracer.GaussianNoise(samples=3)
METHODS: dict[str, dict[str, Any]] = {
    "rome": {},
    "memit": {},
    "ft_m": {},
    "lora": {},
    "kn": {"token": "answer"},
    "grace": {},
    "mend": {},
    "malmen": {},
    "serac": {},
    "ike": {},
}
PREPARED: dict[str, dict[str, Any]] = {
    "mend": {"projections": ["down"], "steps": 60},
    "malmen": {"projections": ["down"], "steps": 60},
    "serac": {"steps": 400, "student_steps": 800},
    "ike": {},
}
"""Settings of what is learnt first, for a short training on one core."""
LEARNT = 200  # records that are learnt from


@dataclass(frozen=True)
class Asked:
    """A request, and what is asked before and after: facts by kind, with the answers that are right after it."""

    request: editing.EditRequest
    facts: dict[str, tuple[Fact, ...]]


def span(model: tracer.Model, prompt: str, subject: str, target: str) -> Fact:
    """A fact as a span; the prompt has the subject in it."""
    return Fact.span(model, prompt.replace(subject, "{}", 1) if "{}" not in prompt else prompt, subject, f" {target}")


def asked_of(model: tracer.Model, record: dict[str, Any]) -> Asked:
    """A record of FactWorld in span form."""
    wanted = record["requested_rewrite"]
    subject, new, old = wanted["subject"], wanted["target_new"]["str"], wanted["target_true"]["str"]
    fact = span(model, wanted["prompt"], subject, new)
    others = [span(model, one["prompt"], subject, one["target"]) for one in record["same_subject_prompts"]]
    around = [Fact.span(model, text, text, f" {old}") for text in record["neighborhood_prompts"]]
    facts = {
        "said": (fact,),
        "paraphrases": tuple(span(model, text, subject, new) for text in record["paraphrase_prompts"]),
        "neighbours": tuple(around),
        "other facts": tuple(others),
    }
    return Asked(editing.EditRequest(fact.prompt, subject, f" {new}"), facts)


def shares(model: tracer.Model, asked: Asked) -> dict[str, float]:
    """Share of facts of each kind whose target is what the model says."""
    flat = [fact for facts in asked.facts.values() for fact in facts]
    said = iter(own_answers(model, flat))
    return {
        kind: float(np.mean([tuple(next(said)) == fact.align(model).target_ids for fact in facts]))
        for kind, facts in asked.facts.items()
        if facts
    }


def traced(model: tracer.Model, facts: Sequence[Fact]) -> dict[str, Any]:
    """Mean effects [layers] at the sites that the page is about, with the number of facts."""
    encoder = {}
    for kind in ("hidden", "mlp"):
        mean = tracer.average_traces(model, facts, kind=kind, window=1, corruption=NOISE.measured(model))
        rows = dict(zip(mean.classes, mean.effect.tolist(), strict=True))
        encoder[kind] = {"facts": mean.facts, "clean": mean.clean, "corrupted": mean.corrupted, "effect": rows}
    decoder: dict[str, Any] = {}
    for kind in ("hidden", "cross", "attn", "mlp"):
        effects = []
        for fact in track(facts, f"decoder, {kind}"):
            trace = tracer.causal_trace(model, fact, stack="decoder", kind=kind, window=1, corruption=NOISE)
            first = fact.align(model).answer_position
            effects.append(trace.effect[trace.positions.index(first)])
        decoder[kind] = np.mean(effects, 0).tolist()
    return {"encoder": encoder, "decoder": decoder}


def prepared(model: tracer.Model, method: str) -> dict[str, Any]:
    """What a method needs besides its settings: the editor that it learnt from train records, if it does."""
    if method not in PREPARED:
        return {}
    learnt = in_spans(model, editing.load_records("factworld", split="train")[:LEARNT])
    value = editing.prepare(model, method, learnt, cache=False, **PREPARED[method])
    typer.echo(repr(value))
    return {"prepared": value}


def edited(model: tracer.Model, records: Sequence[dict[str, Any]], methods: Sequence[str]) -> dict[str, Any]:
    """For each method and kind of question the share that is right, with an interval over requests."""
    context = EditContext(model)
    every = [asked_of(model, record) for record in records]
    rows: dict[str, list[dict[str, float]]] = {"unedited": [shares(model, one) for one in track(every, "before")]}
    for method in methods:
        settings = METHODS[method] | prepared(model, method)
        rows[method] = []
        for one in track(every, method):
            given: dict[str, Any] = {"known": "edit", "check": None, "context": context, **settings}
            edit = editing.compute_edit(model, one.request, method, **given)
            with edit.applied(model):
                rows[method].append(shares(model, one))
    found: dict[str, Any] = {}
    for method, each in rows.items():
        found[method] = {}
        for kind in each[0]:
            some = [(row[kind], one.request.subject) for row, one in zip(each, every, strict=True) if kind in row]
            mean, low, high = clustered_mean([value for value, _ in some], [subject for _, subject in some])
            found[method][kind] = [round(float(number), 4) for number in (mean, low, high)]
    return found


def main(
    model: Annotated[str, typer.Option(help="name or folder of an encoder-decoder model")] = "factworld-t5",
    facts: Annotated[int, typer.Option(help="facts that are traced")] = 100,
    requests: Annotated[int, typer.Option(help="facts that are edited by each method")] = 40,
    methods: Annotated[str, typer.Option(help="names with commas between")] = ",".join(METHODS),
    traces: Annotated[bool, typer.Option(help="trace too, or keep the traces of the file")] = True,
    seed: Annotated[int, typer.Option(help="of the draw of both")] = 0,
    out: Annotated[Path, typer.Option(help="file to write")] = Path("benchmarks/encoder_decoder.json"),
) -> None:
    """Trace and edit, and keep the numbers."""
    held = tracer.load(model)
    draw, known = np.random.default_rng(seed), factworld.facts()
    chosen = [known[i] for i in draw.choice(len(known), facts, replace=False)]
    spans = [Fact.span(held, fact.prompt, fact.subject, fact.target) for fact in chosen]
    records = factworld.records("test")
    some = [records[i] for i in draw.choice(len(records), requests, replace=False)]
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"edits": {}}
    found |= {"facts": facts, "requests": requests, "seed": seed}
    if traces:
        found["traces"] = traced(held, spans)
    found["edits"] |= edited(held, some, methods.split(","))
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for method, kinds in found["edits"].items():
        typer.echo(
            f"{method:10}"
            + "  ".join(f"{kind} {mean:.2f} [{low:.2f}, {high:.2f}]" for kind, (mean, low, high) in kinds.items())
        )


if __name__ == "__main__":
    typer.run(main)
