"""Test records of FactWorld whose edits a router is to find, and the questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any

from memory_records import ALONE

import editing
from editing.datasets import EditRecord
from editing.memories import Memory, Router
from tracer import Fact, Model
from tracer.engine.memories import resting

MEANT = ("rewrite", "paraphrase", "subject_alias", ALONE)
MOST = {"neighbour": 2, "attribute": 1}  # questions of a record
Ids = tuple[int, ...]


def records(entries: int) -> list[EditRecord]:
    """Test records of different subjects, in an order that is drawn once."""
    every = editing.load_records("factworld", split="test")
    Random(0).shuffle(every)
    first: dict[str, EditRecord] = {}
    for record in every:
        first.setdefault(record.rewrites[0].subject, record)
    return list(first.values())[:entries]


def questions(some: Sequence[EditRecord]) -> list[tuple[int, Any]]:
    """Questions of records, with their places."""
    found = []
    for place, record in enumerate(some):
        seen: dict[str, int] = {}
        for one in record.questions():
            seen[one.kind] = seen.get(one.kind, 0) + 1
            if one.kind in (*MEANT, "neighbour", "attribute", "same_subject") and seen[one.kind] <= MOST.get(
                one.kind, 9
            ):
                found.append((place, one))
    return found


def ids_of(model: Model, text: str) -> Ids:
    return tuple(Fact("{}", text).align(model).input_ids)


def rerouted(model: Model, memory: Memory, router: Router) -> Memory:
    """The same entries, which another router finds."""
    tensors = {name: each for name, each in memory.tensors.items() if not name.startswith("router/")}
    with resting(model):
        keys = router.keys(model, memory.acts.lines_of(memory))
    header = {**memory.header, "router": router.header()}
    return replace(memory, tensors={**tensors, **router.stored(), "keys": keys}, header=header)
