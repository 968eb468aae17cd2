"""What arrives of a value: the same as in a forward, and the value that brings what is wanted."""

from __future__ import annotations

from collections.abc import Callable

import checkpoints
import pytest
import torch
from torch import Tensor

from tracer.engine.arriving import Arrival, behind_norm
from tracer.engine.hooks import Replace, Site, capture, intervene
from tracer.model import Model, load

Double = Callable[[str], Model]
NORMS = tuple(name for name in checkpoints.BEHIND if name != "granite")
IDS = [3, 5, 7, 9]
LAYER = 2


@pytest.fixture(scope="module")
def double(tiny_folder: Callable) -> Double:
    made: dict[str, Model] = {}

    def model(name: str) -> Model:
        if name not in made:
            made[name] = load(tiny_folder(name), dtype=torch.float64)
        return made[name]

    return model


def state(model: Model, kind: str, value: Tensor | None = None) -> Tensor:
    """[d] at the last token of ``LAYER``, perhaps with another value there."""
    changes = [] if value is None else [Replace(Site("value", LAYER, -1), value)]
    with torch.no_grad(), intervene(model, changes):
        return capture(model, IDS, [Site(kind, LAYER, -1)])[Site(kind, LAYER, -1)][0]


def noise(model: Model, seed: int, like: Tensor) -> Tensor:
    drawn = torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * like.norm() / drawn.norm()


@pytest.mark.parametrize("name", [*checkpoints.BEHIND, "gpt2", "neox", "opt", "bloom", "falcon"])
def test_a_contribution_is_what_the_forward_adds(name: str, double: Double) -> None:
    model = double(name)
    assert behind_norm(model, LAYER) == (name in NORMS)
    arrival, value = Arrival.of(model, LAYER), state(model, "value")
    for other in (value, value + noise(model, 0, value), 1e-3 * value):
        torch.testing.assert_close(arrival.contribution(other), state(model, "mlp", other), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*checkpoints.BEHIND, "gpt2", "neox"])
@pytest.mark.parametrize("size", [0.01, 0.5, 5.0])
def test_a_move_that_a_value_can_make_is_made(name: str, size: float, double: Double) -> None:
    model = double(name)
    arrival, value, before = Arrival.of(model, LAYER), state(model, "value"), state(model, "hidden")
    moved = arrival.contribution(value + size * noise(model, 1, value)) - arrival.contribution(value)
    new = arrival.values(value, moved)
    # to what the norm adds to the mean square, a millionth
    torch.testing.assert_close(state(model, "hidden", new) - before, moved, rtol=1e-3, atol=1e-4 * float(moved.norm()))
    if name in NORMS:  # turned, not lengthened
        assert float(new.norm() / value.norm()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", NORMS)
def test_another_move_is_made_as_far_as_the_norm_lets_it(name: str, double: Double) -> None:
    model = double(name)
    arrival, value = Arrival.of(model, LAYER), state(model, "value")
    was = arrival.contribution(value)
    moved = noise(model, 2, was)
    arrived = state(model, "mlp", arrival.values(value, moved))
    cosine = torch.nn.functional.cosine_similarity(arrived, was + moved, dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)
    assert float((arrived - was - moved).norm()) < float(moved.norm())


def test_a_dimension_that_the_norm_shuts_is_left_alone(double: Double) -> None:
    model = double("gemma2")
    norm = model.module("mlp", LAYER)
    assert isinstance(norm.weight, torch.nn.Parameter)
    kept = norm.weight.detach().clone()
    try:
        with torch.no_grad():
            norm.weight[5] = -1.0  # Gemma multiplies with one more than the weight
        arrival, value = Arrival.of(model, LAYER), state(model, "value")
        new = arrival.values(value, noise(model, 3, arrival.contribution(value)))
        assert torch.isfinite(new).all()
        assert float(arrival.contribution(new)[5]) == 0
        assert 0 < float(new[5] / value[5]) < 10  # as it was, but for the length of the whole
    finally:
        with torch.no_grad():
            norm.weight.copy_(kept)
