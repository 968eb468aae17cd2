"""What an edit is compared with, and whether the model is still well: controls and the health monitor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from handmade import handmade

import tracer
from editing.evaluation.run.controls import random_direction, random_layers
from editing.health.drift import Drift
from editing.health.monitor import Limits, Monitor
from tracer import Model, TracerError


@pytest.fixture
def model(tiny: Callable[[str], Model]) -> Model:
    return tiny("gpt2")


def test_random_direction_has_the_size_of_the_edit(model: Model) -> None:
    edit = handmade(model, (1, 2), (1, 20))
    turned, again, other = (random_direction(edit, seed) for seed in (5, 5, 6))
    for name, size in edit.norm().items():
        assert turned.norm()[name] == pytest.approx(size, rel=1e-5)
        dense = turned.to_dense()[name]
        assert torch.equal(dense, again.to_dense()[name]) and not torch.equal(dense, other.to_dense()[name])
        aligned = float((dense * edit.to_dense()[name]).sum()) / size**2
        assert abs(aligned) < 0.2
    assert set(turned.rank().values()) == {1, 8}


def test_random_layers_are_elsewhere() -> None:
    drawn = {random_layers(range(6), (2, 3), seed) for seed in range(40)}
    assert drawn == {(0, 1), (1, 2), (3, 4), (4, 5)}
    with pytest.raises(TracerError, match="no other place for 2"):
        random_layers(range(2), (0, 1), 0)


def test_the_monitor_sees_growth_and_a_disabling_edit() -> None:
    model = tracer.load()
    drift = Drift.recorded(model, "The Space Needle is in downtown Seattle. Miles Davis plays the trumpet.")
    monitor = Monitor(model, drift, Limits(norm_growth=1.5, perplexity=2.0, edit=1.5, kl=1.0))
    weight = model.down_projection(1)
    monitor.watch([weight.name])
    readings = {reading.measure: reading for reading in monitor.read()}
    assert readings["norm growth"].value == 1 and readings["kl drift"].value == pytest.approx(0, abs=1e-6)
    assert readings["perplexity growth of one edit"].value == pytest.approx(1) and not any(
        r.alarm for r in readings.values()
    )
    with torch.no_grad():
        weight.weight.mul_(40.0)
    readings = {reading.measure: reading for reading in monitor.read()}
    assert readings["norm growth"].value == pytest.approx(40, rel=1e-5) and readings["norm growth"].alarm
    assert readings["perplexity"].alarm and readings["kl drift"].value > 0.1
    other = Monitor(model, drift, Limits(None, None, None, None))
    other.resume(monitor.state)
    assert not any(reading.alarm for reading in other.read())
