"""The noise is the published one, drawn and added as there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tracer.engine.hooks import Replace, Site, as_ids, capture, intervene
from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.facts.readout import answer_text
from tracer.factworld import statements
from tracer.model import Model, load
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise, TokenReplacement, UniformNoise

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


def test_uniform_noise_is_the_published_one() -> None:
    expected = np.random.RandomState(5).uniform(-1, 1, (4, 3, 8))
    assert np.array_equal(UniformNoise(samples=4, seed=5).draw(3, 8), expected)
    assert np.abs(UniformNoise(level=0.3).draw(2, 8)).max() <= 1


@pytest.mark.parametrize("noise", [GaussianNoise, UniformNoise])
def test_a_later_draw_goes_on_where_the_first_ended(noise: type[GaussianNoise]) -> None:
    one = noise(samples=2, seed=3)
    both = noise(samples=4, seed=3).draw(3, 8)  # C order: the second two rows follow the first two
    assert np.array_equal(one.draw(3, 8), both[:2])
    assert np.array_equal(one.draw(3, 8, skip=1), both[2:])


def test_uniform_noise_of_some_sigma_varies_as_gaussian_noise_does(tiny: Tiny) -> None:
    model = tiny("gpt2")
    gauss, even = (noise(samples=400, subjects=NAMES) for noise in (GaussianNoise, UniformNoise))
    spread = [noise.level_for(model) * noise.draw(2, model.d_model).std() for noise in (gauss, even)]
    assert spread[1] == pytest.approx(spread[0], rel=0.02)
    assert UniformNoise(level=0.2).level_for(model) == 0.2
    assert isinstance(even.measured(model), UniformNoise)
    settings = even.corrupt(model, as_ids(model, "a")[0], (0, 1)).settings
    assert settings["name"] == "UniformNoise"


def test_a_replacement_changes_the_subject_and_nothing_else(tiny: Tiny) -> None:
    model = tiny("gpt2")
    fact = Fact("In {} is", "xyz", " Seattle")
    found = fact.align(model)
    ids = torch.tensor([*found.input_ids, *found.target_ids[:-1]])
    rows = TokenReplacement(["kqv", "uvw"]).corrupt(model, ids, found.subject_range, fact)
    assert rows.interventions == []
    assert rows.ids[0].equal(ids)
    prompt = len(found.input_ids)
    for row, name in zip(rows.ids[1:], ("kqv", "uvw"), strict=True):
        assert tuple(row[:prompt].tolist()) == Fact("In {} is", name).align(model).input_ids
        assert row[prompt:].equal(ids[prompt:])
    assert rows.settings == {"name": "TokenReplacement", "subjects": ["kqv", "uvw"], "samples": 2}


def test_the_trace_runs_on_the_other_prompt(tiny: Tiny) -> None:
    model = tiny("llama")
    about, other = Fact("In {} is", "xyz"), Fact("In {} is", "kqv")
    trace = causal_trace(model, about, corruption=TokenReplacement("kqv"), layers=[1], tokens="subject_last")
    span, ids = about.align(model).subject_range, torch.tensor([other.align(model).input_ids])
    own = torch.tensor([about.align(model).input_ids])
    site = Site("hidden", 1, span[1] - 1)
    with torch.no_grad():
        clean, corrupted = (model.hf(x).logits[0, -1].softmax(-1) for x in (own, ids))
        with intervene(model, [Replace(site, capture(model, own, [site])[site])]):
            restored = model.hf(ids).logits[0, -1].softmax(-1)
    answer = clean.argmax()
    expected = [float(p[answer]) for p in (clean, corrupted, restored)]
    assert [trace.clean, trace.corrupted, float(trace.scores[0, 0])] == pytest.approx(expected, abs=1e-6)


def test_suggestions_fit_and_answer_something_else() -> None:
    model, fact = load(), Fact("{} is in downtown", "The Space Needle")
    names = TokenReplacement.suggest(model, fact, 4)
    found = fact.align(model)
    assert len(names) == 4
    sure = []
    for name in names:
        other = Fact(fact.prompt, name).align(model)
        assert other.subject_range == found.subject_range
        with torch.no_grad():
            p = model.hf(torch.tensor([other.input_ids])).logits[0, -1].softmax(-1)
        assert answer_text(model, [int(p.argmax())]) != " Seattle"
        sure.append(float(p.max()))
    assert sure == sorted(sure, reverse=True)
    types = {s.subject: s.type for s in statements()}
    assert {types[name] for name in names} == {"landmark"}
    rows = TokenReplacement(samples=2).corrupt(model, torch.tensor(found.input_ids), found.subject_range, fact)
    assert rows.settings["subjects"] == names[:2]
    assert (
        TokenReplacement.suggest(model, fact, candidates=["The Space Needle", "a name of quite another length"]) == []
    )


@pytest.mark.parametrize(
    ("swap", "message"),
    [
        (TokenReplacement("Paris"), "'xyz' takes 3 tokens in 'In xyz is' and 'Paris' takes 1; expected equally many"),
        (TokenReplacement("xyz"), "the replacement 'xyz' is the fact's own subject"),
        (TokenReplacement(candidates=["Paris"]), "no other subject known here has 3 tokens in 'In xyz is'"),
    ],
)
def test_subjects_that_do_not_fit_are_refused(swap: TokenReplacement, message: str, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=message):
        causal_trace(tiny("gpt2"), Fact("In {} is", "xyz"), corruption=swap)


@pytest.mark.parametrize("settings", [{"subject": ""}, {"subject": []}, {"subject": [" "]}, {"samples": 0}])
def test_replacements_that_are_none_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(TracerError, match="of the replacement is"):
        TokenReplacement(**settings)
