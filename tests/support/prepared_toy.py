"""A method that is prepared, for tests: it learns a direction from its records, and writes it as a toy memory."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import toys
from torch import Tensor

from editing.memories import KINDS, MemoryChange
from editing.methods.compute import METHODS
from editing.methods.context import EditContext
from editing.methods.method import Change, Group, Method
from editing.prepared import Course, Made, Preparation, Work, train
from tracer.model import Model


class Killed(BaseException):
    """What a process that is killed sees of it: nothing."""


@dataclass(frozen=True)
class Teaching:
    """Settings; the training is killed before the step `killed`, and its loss is not finite from `broken` on."""

    steps: int = 12
    lr: float = 0.1
    size: float = 1.0


HOOKS: dict[str, Any] = {"step": lambda step: None, "made": 0}


def make(model: Model, settings: Teaching, work: Work) -> Made:
    """Learns a vector that points to what the records' embeddings have in common, with noise of every step's own."""
    HOOKS["made"] += 1
    vector = torch.zeros(model.d_model, requires_grad=True)
    weight: Any = model.module("embed").weight
    goal = weight[: len(work.records)].detach().float().mean(0)

    def step(number: int) -> Mapping[str, Tensor]:
        factor = HOOKS["step"](number)
        noise = torch.randn(model.d_model, generator=work.draws(number))
        loss = (vector - settings.size * goal + 0.01 * noise).square().sum()
        return {"loss": loss if factor is None else loss * factor}

    def validate() -> Mapping[str, float]:
        return {"score": -float((vector - settings.size * goal).norm())}

    course = Course(settings.steps, validate_every=4, decay=True, clip=10.0)
    optimizer = torch.optim.Adam([vector], lr=settings.lr)
    trained = train({"vector": vector}, optimizer, step, course, work.checkpoint, validate=validate)
    return Made({"vector": vector.detach()}, {"layer": 1}, trained.history, trained.ended)


def plan(model: Model, groups: Sequence[Group], settings: toys.ToySettings, context: EditContext) -> list[Change]:
    """A toy memory of the first request of each group."""
    prepared = context.prepared_for("taught")
    changes = []
    for group in groups:
        prompt = tuple(group[0].fact.align(model).input_ids)
        memory = toys.toy(model, [prompt], settings.size * prepared.tensors["vector"].unsqueeze(0))
        changes.append(Change({}, {"prepared": prepared.digest}, memories=(MemoryChange.between(None, memory),)))
    return changes


PREPARATION = Preparation(Teaching, make, summary="a direction")
METHOD = Method(
    "taught",
    toys.ToySettings,
    plan,
    needs=frozenset({"prepared"}),
    layers="one",
    seeded=True,
    preparation=PREPARATION,
    summary="a vector that was learnt",
)


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the method be found by its name."""
    for name, place in toys.TOYS.items():
        monkeypatch.setitem(KINDS, name, place)
    monkeypatch.setitem(METHODS, "taught", "prepared_toy.METHOD")
    monkeypatch.setitem(sys.modules, "editing.methods.prepared_toy", sys.modules[__name__])
    monkeypatch.setitem(HOOKS, "step", lambda step: None)
    monkeypatch.setitem(HOOKS, "made", 0)
