"""Models in float64 with the covariance of a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from closed_forms import TEXT

from editing.covariance.covariance import Covariance
from editing.covariance.estimate import estimate_covariance
from tracer.model import Model, load


@pytest.fixture(scope="module")
def exact(tiny_folder: Callable[[str], Path]) -> Callable[[str], tuple[Model, Covariance]]:
    """Models in float64 with their covariance."""
    made: dict[str, tuple[Model, Covariance]] = {}

    def both(name: str) -> tuple[Model, Covariance]:
        if name not in made:
            model = load(tiny_folder(name), dtype=torch.float64)
            moment = estimate_covariance(model, None, TEXT, window=32, dtype=torch.float64, cache=False)
            made[name] = model, moment
        return made[name]

    return both
