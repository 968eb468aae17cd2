"""The rate that a training begins with: found as the lowest of a valley, and downhill on a real objective."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from edit_command import RECORDS as GIVEN
from hypothesis import given
from hypothesis import strategies as st

import editing
from editing.datasets import records_of
from editing.methods.lessons import lessons_of
from editing.methods.meta import prepare as preparing
from editing.methods.meta.episodes import Episodes
from editing.methods.meta.first_rate import MOST, lowest
from editing.methods.meta.prepare import malmen_of, mend_of
from editing.methods.meta.teaching import losses_of
from tracer import Model

Tiny = Callable[[str], Model]
RECORDS = records_of(json.loads(json.dumps(GIVEN).replace("Rome", "Seattle")))
QUICK: dict[str, Any] = {"rank": 4, "measured": 4, "batch": 4, "validate_on": 2, "directions": 3}


def prepare(model: Model, method: str = "mend", **more: Any) -> editing.Prepared:
    return editing.prepare(model, method, RECORDS, held_out=RECORDS[:1], **{**QUICK, "cache": False, **more})


@given(st.integers(-9, 9), st.floats(0.1, 10.0))
def test_the_lowest_of_a_valley_is_found(power: int, first: float) -> None:
    tried: list[float] = []

    def loss(size: float) -> float:
        tried.append(size)
        return abs(math.log2(size / first) - power)

    assert lowest(loss, first) == pytest.approx(first * 2.0**power)
    assert len(tried) == len(set(tried)) <= abs(power) + 3


def test_losses_that_are_not_finite_and_endless_slopes_end() -> None:
    assert lowest(lambda size: math.nan if size > 0.5 else -size, 1.0) == 0.5
    tried: list[float] = []
    assert lowest(lambda size: float(tried.append(size) or -len(tried)), 1.0) > 0 and len(tried) == MOST


@pytest.mark.parametrize(("method", "made_of", "sign"), [("mend", mend_of, -1), ("malmen", malmen_of, 1)])
def test_a_training_begins_where_the_loss_is_lowest(method: str, made_of: Any, sign: int, tiny: Tiny) -> None:
    model = tiny("gpt2")
    made = prepare(model, method, steps=0, edits=1)
    (rate,) = set((made.tensors["rate"] * sign).tolist())
    assert rate > 0 and math.log2(rate / 0.01) == pytest.approx(round(math.log2(rate / 0.01)), abs=1e-5)
    episodes = Episodes(model, lessons_of(model, RECORDS, method), others=4, drawn=0.75)
    some = episodes.drawn_at(
        Random(int(torch.randint(1 << 62, (1,), generator=torch.Generator().manual_seed(-4 % (1 << 63))))), 16, 1
    )

    def loss(size: float) -> float:
        editor = made_of(model, made)
        editor.nets.parameters["rate"].fill_(sign * size)
        with torch.no_grad():
            return float(losses_of(model, editor, some, torch.add)["loss"])

    below, here, above = (loss(rate * factor) for factor in (0.5, 1.0, 2.0))
    assert here < below and here < above


def test_a_run_that_was_killed_goes_on_with_its_rate(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own: dict[str, Any] = {"cache": tmp_path, "steps": 4, "edits": 1}
    whole = prepare(tiny("gpt2"), **{**own, "cache": False})
    plain = preparing.teach

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(preparing, "teach", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(tiny("gpt2"), **own)
    monkeypatch.setattr(preparing, "teach", plain)
    monkeypatch.setattr(preparing, "lowest", lambda *_: pytest.fail("the rate was chosen already"))
    assert prepare(tiny("gpt2"), **own).digest == whole.digest
