"""Requests of methods that look prompts up, and what is asked of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from editing import Edit, EditRequest
from editing.memories import Memory
from tracer import Fact, Model
from tracer.engine import Line
from tracer.engine.follow import follow

QUICK: dict[str, Any] = {"known": "edit", "check": None, "steps": 40}
REQUESTS = [
    EditRequest("{} is in", "The Space Needle", " Paris"),
    EditRequest("{} plays the", "Miles Davis", " trumpet"),
    EditRequest("The mother tongue of {} is", "Yo-Yo Ma", " downtown Paris"),
]
MISSED = "The Eiffel Tower is in"


def at(method: str, model: Model) -> dict[str, Any]:
    """Settings with which a tiny random model learns a request, and no other prompt is near."""
    last = model.n_layers - 1
    if method == "melo":
        own = {"key_layer": last, "layers": [0, last - 1], "rank": 4, "scale": 200.0, "lr": 3e-2}
        return {**QUICK, **own, "edits_per_block": 1, "radius": 1e-3, "steps": 60}
    return {**QUICK, "layers": [last], "radius": 1e-3}


def memory_of(edit: Edit) -> Memory:
    """The memory that an edit of a model without one leads to."""
    found = edit.memories[0].on(None)
    assert isinstance(found, Memory)
    return found


def only(model: Model) -> Memory:
    """The memory that a model has."""
    (found,) = model.memories
    assert isinstance(found, Memory)
    return found


def target_of(model: Model, request: EditRequest) -> tuple[int, ...]:
    """Ids of a request's target."""
    return tuple(request.fact.align(model).target_ids)


def evidence(edit: Edit, name: str) -> torch.Tensor:
    """An array of an edit's evidence."""
    assert edit.evidence is not None
    return edit.evidence[name]


def scores(model: Model, texts: tuple[str, ...] = (MISSED,), max_rows: int | None = None) -> list[np.ndarray]:
    """Log-probabilities of forced targets, and what is written, for each text."""
    lines = [Line(tuple(Fact(text, text).align(model).input_ids), ((7, 8), (9,)), tokens=4) for text in texts]
    return [np.concatenate([*each.log_probs, each.written]) for each in follow(model, lines, max_rows=max_rows)]
