"""A search decides where its vectors lie: few numbers are brought to the host, and the values do not depend on when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from values import GOAL, found, subjects

from editing.methods.value.descent import EVERY, Descent, Terms
from editing.methods.value.objective import Objective
from tracer.model import Model

COPIES = ("cpu", "item", "tolist", "numpy", "__bool__", "__float__", "__int__", "__index__")
LONG = replace(GOAL, v_steps=20)
MEASURED = Objective(20, None, None, 0.0625, None, stop=1e-2, patience=3)


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Context in which every way of bringing a tensor's numbers to the host is counted."""
    seen: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for name in COPIES:
            patch.setattr(Tensor, name, _counting(seen, name, getattr(Tensor, name)))
        yield seen


def _counting(seen: Counter[str], name: str, own: Callable) -> Callable:
    def copy(self: Tensor, *given: Any) -> Any:
        seen[name] += 1
        return own(self, *given)

    return copy


@pytest.mark.parametrize("goal", [LONG, MEASURED])
@pytest.mark.parametrize("kind", ["value", "hidden"])
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_a_search_of_twenty_steps_copies_little(name: str, kind: str, goal: Objective, tiny: Callable) -> None:
    model = tiny(name)
    some = subjects(model)
    with counted() as seen:
        values = found(model, some, [(kind, 1)], replace(goal, stop=0.0))
    assert [len(value.loss) for value in values] == [20] * 3
    assert seen["tolist"] >= 20  # a processor is asked after every step
    assert sum(seen.values()) <= 40, seen


@pytest.mark.parametrize("goal", [replace(LONG, v_lr=0.5, stop=6.25), replace(MEASURED, stop=6.08)])
def test_when_it_looks_does_not_matter(goal: Objective, tiny_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked every few steps, as on a device, the same steps are the last ones, with the same vectors and losses."""
    looks: list[int] = []

    def due(self: Descent, place: int) -> bool:
        looks.append(place)
        return (place + 1) % EVERY == 0

    each = found(tiny_model, subjects(tiny_model), [("mlp", 1)], goal)
    monkeypatch.setattr(Descent, "due", due)
    seldom = found(tiny_model, subjects(tiny_model), [("mlp", 1)], goal)
    ends = [len(value.loss) for value in each]
    assert len(set(ends)) == 3 and looks == list(range(19))
    for one, other in zip(each, seldom, strict=True):
        assert len(one.loss) == len(other.loss)
        torch.testing.assert_close(one.loss, other.loss, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(one.delta, other.delta, rtol=1e-4, atol=1e-6)


@pytest.fixture
def tiny_model(tiny: Callable[[str], Model]) -> Model:
    return tiny("gpt2")


def test_a_request_without_a_number_ends_and_leaves_the_others_alone() -> None:
    descent = Descent(torch.ones(3, 1, 4), LONG)
    terms = Terms.none(3, torch.device("cpu"))
    terms.nll[1] = torch.nan
    descent.deltas.grad = torch.ones(3, 1, 4)
    descent.step(0, terms, last=False)
    assert descent.broken.tolist() == [False, True, False] and not descent.active[1]
    assert torch.equal(descent.deltas[1], torch.zeros(1, 4)) and bool(torch.isfinite(descent.deltas).all())
