"""The noise is the published one, drawn and added as there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tracer.corruption import GaussianNoise
from tracer.errors import TracerError
from tracer.hooks import Site, as_ids, capture, intervene
from tracer.model import Model

Tiny = Callable[[str], Model]
NAMES = ["Paris", "The Space Needle", "Paris", "García Márquez"]


def test_draws_are_those_of_the_published_code() -> None:
    expected = np.random.RandomState(5).randn(4, 3, 8)
    assert np.array_equal(GaussianNoise(samples=4, seed=5).draw(3, 8), expected)
    assert np.array_equal(GaussianNoise(samples=2, seed=5).draw(3, 8), expected[:2])  # the first do not depend on S
    assert not np.array_equal(GaussianNoise(samples=4).draw(3, 8), expected)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "bert"])
def test_the_level_is_sigma_times_the_measured_deviation(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    ids = [torch.tensor(model.tokenizer(name, add_special_tokens=False)["input_ids"]) for name in NAMES]
    with torch.no_grad():  # the module's output: some scale it
        rows = torch.cat([model.module("embed")(some) for some in ids])
    noise = GaussianNoise(sigma=2.5, subjects=NAMES)
    assert noise.level_for(model) == pytest.approx(2.5 * float(rows.std()), rel=1e-6)
    assert noise.measured(model).level == noise.level_for(model)
    assert GaussianNoise(sigma=2.5, level=0.25).level_for(model) == 0.25  # a given level comes first
    assert GaussianNoise(sigma=0, subjects=NAMES).level_for(model) == 0


def test_without_subjects_those_of_the_table_serve(tiny: Tiny) -> None:
    from tracer.factworld import subjects

    model = tiny("gpt2")
    assert GaussianNoise().level_for(model) == GaussianNoise(subjects=list(subjects())).level_for(model) > 0


def test_noise_goes_on_the_word_embeddings_of_the_subject_alone(tiny: Tiny) -> None:
    model, noise = tiny("gpt2"), GaussianNoise(level=0.7, samples=3, seed=2)
    ids = as_ids(model, "The Space Needle is in")[0]
    rows, items, settings = noise.corrupt(model, ids, (1, 3))
    with torch.no_grad():
        clean = capture(model, ids, [Site("embed")])[Site("embed")]
        with intervene(model, items):
            dirty = capture(model, rows, [Site("embed")])[Site("embed")]
    expected = clean.repeat(4, 1, 1)
    expected[1:, 1:3] += 0.7 * torch.from_numpy(np.random.RandomState(2).randn(3, 2, model.d_model))
    assert torch.equal(dirty, expected)
    assert settings == {"name": "GaussianNoise", "sigma": None, "level": 0.7, "samples": 3, "seed": 2}
    assert GaussianNoise(sigma=1, subjects=NAMES).corrupt(model, ids, (1, 2)).settings["sigma"] == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": -1.0}, "sigma of the noise is -1.0"),
        ({"sigma": float("nan")}, "sigma"),
        ({"level": -0.1}, "level of the noise is -0.1"),
        ({"level": float("inf")}, "level"),
        ({"samples": 0}, "samples of the noise is 0"),
        ({"samples": 2.5}, "samples"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"subjects": []}, "subjects"),
        ({"subjects": "Paris"}, "list of names"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        GaussianNoise(**settings)


def test_subjects_without_tokens_are_refused(tiny: Tiny) -> None:
    with pytest.raises(TracerError, match="give other subjects"):
        GaussianNoise(subjects=[""]).level_for(tiny("gpt2"))


def test_it_is_a_value() -> None:
    assert GaussianNoise(subjects=NAMES) == GaussianNoise(subjects=tuple(NAMES))
    assert hash(GaussianNoise(subjects=NAMES)) == hash(GaussianNoise(subjects=NAMES))
    with pytest.raises(dataclasses.FrozenInstanceError):
        GaussianNoise().sigma = 2.0  # type: ignore[misc]
