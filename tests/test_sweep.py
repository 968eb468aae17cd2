"""The branched sweep against the plain loop, on every architecture, and its own rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import reference
import torch

from tracer.causal import causal_trace
from tracer.corruption import GaussianNoise
from tracer.model import Model, load
from tracer.tokens import Fact

NOISE = GaussianNoise(level=0.5, samples=3)
KINDS: tuple[Any, ...] = ("hidden", "mlp", "attn")
Tiny = Callable[[str], Model]


def fact(model: Model) -> Fact:
    return Fact("In {} is" if model.causal else "In {} is [MASK].", "Paris")


def plain(model: Model, about: Fact, kind: str, window: int, noise: GaussianNoise = NOISE) -> np.ndarray:
    found = about.align(model)
    start, end = found.subject_range
    drawn = noise.level_for(model) * noise.draw(end - start, model.d_model)
    read = range(found.answer_position, found.answer_position + max(1, len(found.target_ids)))
    ids = [*found.input_ids, *(found.target_ids[:-1] if model.causal else ())]
    with torch.no_grad():
        answer = found.target_ids or model.hf(torch.tensor([ids])).logits[0, list(read)].argmax(-1).tolist()
    rows = range(len(found.input_ids))
    return reference.trace(model, ids, (start, end), drawn, read, answer, kind=kind, window=window, tokens=rows)[0]


@pytest.fixture(scope="module")
def wide(tiny_folder: Callable[[str], Path]) -> Tiny:
    """Tiny models in float64, where 1e-6 leaves no room for anything but the same arithmetic."""
    made: dict[str, Model] = {}

    def model(architecture: str) -> Model:
        if architecture not in made:
            made[architecture] = load(tiny_folder(architecture), dtype=torch.float64)
        return made[architecture]

    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_sweep_equals_the_plain_loop(architecture: str, kind: Any, tiny: Tiny) -> None:
    model = tiny(architecture)
    trace = causal_trace(model, fact(model), kind=kind, window=3, corruption=NOISE)
    expected = plain(model, fact(model), kind, window=3)
    assert np.ptp(expected) > 1e-3, "a trace without contrast would prove nothing"
    np.testing.assert_allclose(trace.scores, expected, atol=1e-6, rtol=0)
