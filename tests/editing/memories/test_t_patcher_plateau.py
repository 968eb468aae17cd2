"""Validation of patches as published: rates that are halved, and an end by states kept aside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from codebooks import target_of

from editing import EditRequest, compute_edit
from editing.methods.t_patcher.plateau import Plateau
from tracer import Model
from tracer.engine.answer import own_answer

Tiny = Callable[[str], Model]
NONE = None
REQUEST = EditRequest("{} is in", "The Space Needle", " Paris")
QUICK: dict[str, Any] = {"known": "edit", "check": None, "tokens": 200, "steps": 60, "stop_loss": 0.0, "lr": 0.1}


@pytest.mark.parametrize(
    ("targets", "rates"),
    [
        ([8, 7, 6, 5], [1, 1, 1, 1]),
        ([8, 7.7, 7.65, 7.61], [1, 1, 0.5, 0.5]),  # none falls by a twentieth: halved when two have failed
        ([8, 7.7, 7.5, 7.5, 7.4], [1, 1, 1, 1, 0.5]),
    ],
)
def test_rates_are_halved_when_the_loss_fails_to_fall_twice(targets: list[float], rates: list[float]) -> None:
    adam = torch.optim.Adam([{"params": [torch.zeros(1)], "lr": 1.0}, {"params": [torch.zeros(1)], "lr": 4.0}])
    plateau, found = Plateau(adam), []
    for loss in targets:
        assert not plateau.ends(loss, None)
        found.append([group["lr"] for group in adam.param_groups])
    assert found == [[rate, 4 * rate] for rate in rates]


@pytest.mark.parametrize(
    ("aside", "ends"),
    [
        ([3.0, 2.0, 1.0], [False, False, False]),
        ([3.0, 2.9995], [False, True]),  # by less than a thousandth
        ([3.0, NONE, 2.0, 2.5], [False, False, False, True]),  # one at which the target is not said counts for nothing
    ],
)
def test_training_ends_when_states_kept_aside_grow_no_more_silent(aside: list[float | None], ends: list[bool]) -> None:
    plateau = Plateau(torch.optim.Adam([torch.zeros(1)]))
    assert [plateau.ends(1.0, loss) for loss in aside] == ends


def curve(model: Model, **more: Any) -> torch.Tensor:
    """Of an edit, a line a step."""
    edit = compute_edit(model, REQUEST, "t_patcher", **{**QUICK, **more})
    assert edit.evidence is not None
    return edit.evidence["curve"]


def test_an_edit_ends_by_it_at_a_validation(tiny: Tiny) -> None:
    model = tiny("gpt2")
    ended = compute_edit(model, REQUEST, "t_patcher", **QUICK, validate_every=10, validate_from=20)
    assert ended.evidence is not None
    assert len(curve(model)) == len(curve(model, validate_every=10, validate_from=55)) == 60
    assert 30 < len(ended.evidence["curve"]) < 60
    assert len(ended.evidence["curve"]) % 10 == 1  # the line of the step that was not made
    with ended.applied(model):
        assert tuple(own_answer(model, REQUEST.fact)) == target_of(model, REQUEST)


def test_states_kept_aside_are_not_trained_on(tiny: Tiny) -> None:
    """With every fifth state out of the corpus, the terms at the others are another number from the first step on."""
    model = tiny("gpt2")
    one, two = (curve(model, steps=2, validate_every=every) for every in (0, 1))
    assert torch.equal(one[0, 1:4], two[0, 1:4]) and float(one[0, 4]) != float(two[0, 4])
