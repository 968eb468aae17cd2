"""Routes of memory editors on FactWorld: what is said, and what is routed, beside an oracle and a string match.

    python benchmarks/memory_routes.py serac 100
    python benchmarks/memory_routes.py wise 100 --batch

Every test record is edited alone, or all in one edit (--batch). Each kind of question has a row: `right`, the share of
answers that are the new target where that is wanted, or as before where it is not; `hit`, the share on which the memory
acts; `oracle`, what would be right if questions were routed as they should; `string`, the share of questions that hold
the subject's name, which a string match would route.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import pandas as pd

import editing
import tracer
from editing.memories import Memory, attached
from editing.questions.record import EditRecord
from tracer import Fact, Model

TOKENS = 5


def forced(memory: Memory) -> Memory:
    """The same memory, which acts on every question."""
    return replace(memory, header={**memory.header, "threshold": -1e9})


def rows(model: Model, record: EditRecord, memory: Memory, before: dict[str, str]) -> list[dict[str, Any]]:
    """One row per question of a record."""
    questions, subject = record.questions(), record.rewrites[0].subject
    prompts = [question.prompt for question in questions]
    routes = memory.routes(model, [tuple(Fact("{}", prompt).align(model).input_ids) for prompt in prompts])
    with attached(model, memory):
        said = tracer.generate(model, prompts, max_new_tokens=TOKENS)
    with attached(model, forced(memory)):
        always = tracer.generate(model, prompts, max_new_tokens=TOKENS)
    found = []
    for question, text, other, route in zip(questions, said, always, routes, strict=True):
        answer = (question.answer or "").strip()
        found.append(
            {
                "kind": question.kind,
                "right": text.strip().startswith(answer) if question.wants_new else text == before[question.prompt],
                "hit": route.hit,
                "oracle": other.strip().startswith(answer) if question.wants_new else True,
                "string": subject in question.prompt,
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("count", type=int)
    parser.add_argument("--batch", action="store_true")
    parser.add_argument("--threshold", type=float)
    given = parser.parse_args()
    model = tracer.load()
    records = editing.load_records("factworld", split="test", limit=given.count)
    prompts = sorted({question.prompt for record in records for question in record.questions()})
    before = dict(zip(prompts, tracer.generate(model, prompts, max_new_tokens=TOKENS), strict=True))
    more: dict[str, Any] = {"known": "edit", "check": None}
    more |= {} if given.threshold is None else {"threshold": given.threshold}
    requests = [list(record.requests()) for record in records]
    began = time.monotonic()
    groups = [[request for each in requests for request in each]] if given.batch else requests
    edits = editing.compute_edits(model, groups, given.method, **more)
    spent = (time.monotonic() - began) / len(records)
    memories = [edit.memories[0].on(None) for edit in edits] * (len(records) if given.batch else 1)
    began, table = time.monotonic(), []
    for record, memory in zip(records, memories, strict=True):
        assert memory is not None
        table += rows(model, record, memory, before)
    frame = pd.DataFrame(table)
    print(f"{given.method}, {len(records)} records{', one batch' if given.batch else ', each alone'}")
    print(
        f"{1e3 * spent:.0f} ms an edit, {1e3 * (time.monotonic() - began) / len(table):.0f} ms a question, asked twice"
    )
    means = frame.groupby("kind", sort=False).agg("mean")
    print(means.assign(n=frame["kind"].value_counts()).round(3).to_string())


if __name__ == "__main__":
    main()
