"""What Transformer-Patcher and CaliNET change, by their defaults and by the published rules, on FactWorld.

    python benchmarks/beside.py --count 40
    python benchmarks/beside.py --count 8 --model smollm2-135m

Each record is edited alone, and its questions are asked by greedy decoding: the share answered with what is wanted (a
neighbour, an attribute or another fact of the subject with what was true), by kind of question. Published rules run for
fewer steps than published, at the last layer. TRACER_DATA names the folder with the records of CounterFact, which other
models are asked.
"""

from __future__ import annotations

import random
import time
import warnings
from collections import defaultdict
from contextlib import nullcontext
from typing import Any

import pandas as pd
import typer
from real_edits import records as real_records

import editing
import tracer
from editing.methods.context import EditContext
from tracer.engine.answer import own_answers

KINDS = ("rewrite", "paraphrase", "neighbour", "attribute", "same_subject")


def settings() -> dict[str, tuple[str, dict[str, Any]]]:
    """Rows of the table: a method and its settings."""
    patches, slots = editing.published("t_patcher", "bart-base"), editing.published("calinet", "t5-base")
    for each in (patches, slots):
        del each["layers"]
    return {
        "unedited": ("", {}),
        "t_patcher": ("t_patcher", {}),
        "t_patcher, values drawn": ("t_patcher", {"start": "normal"}),
        "t_patcher, no margins": ("t_patcher", {"margins": [0, 0, 0]}),
        "t_patcher, published, 300 steps": ("t_patcher", patches | {"steps": 300, "validate_every": 0}),
        "calinet": ("calinet", {}),
        "calinet, without KL": ("calinet", {"kl_weight": 0.0}),
        "calinet, published, 40 steps": ("calinet", slots | {"steps": 40}),
    }


def measure(model: tracer.Model, records: list[Any], method: str, given: dict[str, Any]) -> dict[str, float]:
    """Shares by kind of question, seconds per edit, and bytes that an edit adds."""
    began, found = time.perf_counter(), defaultdict(list)
    edits: list[Any] = [None] * len(records)
    if method:
        groups = [record.requests() for record in records]
        edits = editing.compute_edits(
            model, groups, method, known="edit", check=None, context=EditContext(model), **given
        )
    seconds = (time.perf_counter() - began) / len(records)
    for record, edit in zip(records, edits, strict=True):
        asked = [question for question in record.questions() if question.kind in KINDS]
        facts = [tracer.Fact(question.prompt, question.prompt, question.answer) for question in asked]
        with nullcontext() if edit is None else edit.applied(model):
            answers = own_answers(model, facts)
        for question, fact, answer in zip(asked, facts, answers, strict=True):
            found[question.kind].append(tuple(answer) == tuple(fact.align(model).target_ids))
    added = [sum(change.nbytes for change in edit.memories) for edit in edits if edit is not None]
    shares = {kind: sum(found[kind]) / len(found[kind]) for kind in KINDS if found[kind]}
    return {**shares, "seconds": seconds, "bytes": sum(added) / max(1, len(added))}


def main(count: int = 40, model: str = "", only: str = "") -> None:
    """Print the table as markdown.

    Args:
        count: of records, drawn from FactWorld's test records, or the first of CounterFact that a model knows.
        model: its name; "" for the embedded one.
        only: rows that begin with this.
    """
    warnings.simplefilter("ignore")
    loaded = tracer.load(model or None).pinned()
    if model:
        some: list[Any] = list(real_records(loaded, count))
    else:
        some = editing.load_records("factworld", split="test")
        random.Random(0).shuffle(some)
    chosen = {name: each for name, each in settings().items() if name.startswith(only)}
    rows = {name: measure(loaded, some[:count], method, given) for name, (method, given) in chosen.items()}
    table = pd.DataFrame(rows).T.round(3)
    print("| | " + " | ".join(table.columns) + " |\n|" + " --- |" * (len(table.columns) + 1))
    for name, row in table.iterrows():
        print(f"| {name} | " + " | ".join(f"{value:.3g}" for value in row) + " |")


if __name__ == "__main__":
    typer.run(main)
