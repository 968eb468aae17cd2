"""What the tests of sought values share: requests, an objective, and the search on a frozen model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editing.methods.value.objective import Objective
from editing.methods.value.prompts import essence_rows, rewriting_rows
from editing.methods.value.search import Optimised, Subject, optimise
from editing.request import EditRequest
from tracer.engine.hooks import frozen
from tracer.model import Model

TEMPLATES = (("{}",), ("It is said. {}",))
REQUESTS = (
    EditRequest("{} is in downtown", "The Space Needle", "Paris"),
    EditRequest("In {} they speak", "Uppsala", "the cello"),
    EditRequest("{} plays the", "Miles Davis", "tower"),
)
GOAL = Objective(v_steps=4, v_lr=0.1, v_weight_decay=0.1, kl_factor=0.0625, clamp=2.0, stop=0.0)


def subjects(model: Model, requests: Sequence[EditRequest] = REQUESTS) -> list[Subject]:
    return [
        Subject(
            tuple(rewriting_rows(model, request, TEMPLATES, "subject_last")),
            tuple(essence_rows(model, request, ["{} is a"], "subject_last", "subject")),
        )
        for request in requests
    ]


def found(model: Model, some: Sequence[Subject], places: Any, goal: Objective = GOAL, **more: Any) -> list[Optimised]:
    with frozen(model):
        return optimise(model, some, places, goal, **more)
