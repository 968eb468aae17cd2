"""Effects of acting on neurons against the managers and the published numbers; random controls; errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from acting import NEURONS, OTHER, TEXT, logits
from agreement import Tiny, fact
from hypothesis import given
from hypothesis import strategies as st

from tracer.engine.hooks import as_ids
from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.facts.readout import Readout
from tracer.model import Model
from tracer.neurons.effects import (
    amplify,
    neuron_effects,
    random_neurons,
    set_to,
    suppress,
)

# --- effects ---------------------------------------------------------------------------------------------------------

ACTED: list[tuple[str, dict[str, Any], Any]] = [
    ("suppress", {}, lambda model, neurons, at, site: suppress(model, neurons, at, site=site)),
    ("amplify", {"factor": 30.0}, lambda model, neurons, at, site: amplify(model, neurons, 30.0, at, site=site)),
    ("set_to", {"value": -7.0}, lambda model, neurons, at, site: set_to(model, neurons, -7.0, at, site=site)),
]


def probability(model: Model, about: Fact, answer: Sequence[int] = ()) -> float:
    """Probability of the answer, in a forward of its own."""
    readout = Readout.of(model, about.align(model))
    with torch.no_grad():
        p = model.hf(input_ids=as_ids(model, readout.ids)).logits[0, list(readout.read)].softmax(-1)
    return float(torch.stack([p[i, token] for i, token in enumerate(readout.target or answer)]).prod())


@pytest.mark.parametrize(("action", "settings", "manager"), ACTED, ids=[case[0] for case in ACTED])
@pytest.mark.parametrize(
    ("architecture", "site"),
    [*((name, "post") for name in ("gpt2", "gptj", "opt", "llama", "bert")), ("opt", "pre"), ("llama", "pre")],
)
def test_effects_are_what_the_managers_leave(
    architecture: str, action: Any, settings: dict[str, Any], manager: Any, site: Any, wide: Tiny
) -> None:
    model = wide(architecture)
    mask = "" if model.causal else " [MASK]."
    facts = [fact(model, "Seattle"), fact(model), Fact("The capital of {} is" + mask, "France", "the heart")]
    for tokens in ("answer", "subject_last", "all", (0, -1)):
        controls: dict[str, Any] = {"other": OTHER, "neighbours": facts[1:], "draws": 2}
        found = neuron_effects(
            model, facts[0], NEURONS, action=action, tokens=tokens, site=site, **controls, **settings
        )
        assert found.facts == tuple(about.text for about in facts)
        for row, about in enumerate(facts):
            aligned = about.align(model)
            readout = Readout.of(model, aligned)
            own = int(logits(model, about.text)[0, aligned.answer_position].argmax())
            length = len(aligned.input_ids)
            at = {
                "answer": list(readout.read),
                "subject_last": [aligned.subject_range[1] - 1],
                "all": None,
                (0, -1): [0, length - 1],
            }[tokens]
            assert found.before[row] == pytest.approx(probability(model, about, [own]), abs=1e-12)
            sets = [NEURONS, *random_neurons(model, NEURONS, 2, 0), OTHER]
            numbers = [found.after[row], *found.random[row], found.other[row]]  # type: ignore[index]
            for neurons, number in zip(sets, numbers, strict=True):
                with manager(model, neurons, at, site):
                    assert number == pytest.approx(probability(model, about, [own]), rel=1e-9)
        assert np.abs(found.change[[0, 2]]).min() > 1e-6
    assert len(Readout.of(model, facts[2].align(model)).target) > 1


def test_rows_and_seeds(wide: Tiny) -> None:
    model = wide("gpt2")
    settings: dict[str, Any] = {"tokens": "all", "draws": 5, "neighbours": [Fact("The {} is", "capital")]}
    first = neuron_effects(model, fact(model), NEURONS, **settings)
    again = neuron_effects(model, fact(model), NEURONS, **settings)
    narrow = neuron_effects(model, fact(model), NEURONS, max_rows=2, **settings)
    fewer = neuron_effects(model, fact(model), NEURONS, **{**settings, "draws": 2})
    another = neuron_effects(model, fact(model), NEURONS, seed=1, **settings)
    for name in ("before", "after", "random"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_allclose(getattr(narrow, name), getattr(first, name), rtol=1e-10)
    np.testing.assert_allclose(fewer.random, first.random[:, :2], rtol=1e-10)
    assert np.abs(another.random / first.random - 1).min() > 1e-9
    assert np.array_equal(another.after, first.after)


def test_each_prompt_is_recorded_once_and_earlier_tokens_are_not_run_again(tiny: Tiny) -> None:
    model, seen = tiny("gpt2"), []
    handle = model.module("embed").register_forward_hook(lambda _, __, output: seen.append(tuple(output.shape[:2])))
    try:
        neuron_effects(model, fact(model), NEURONS, draws=30)
    finally:
        handle.remove()
    whole = len(fact(model).align(model).input_ids)
    assert seen.count((1, whole)) <= 2  # the record, and a look at what enters the first block
    assert seen[-1][1] == 1


def test_a_bare_prompt_and_notes(tiny: Tiny) -> None:
    model = tiny("gpt2")
    found = neuron_effects(model, TEXT, NEURONS, draws=1)
    assert (found.facts, found.subject, found.other, found.note) == ((TEXT,), TEXT, None, "")
    assert found.before[0] == pytest.approx(float(logits(model)[0, -1].softmax(-1).max()), rel=1e-5)
    told = neuron_effects(model, Fact("In {} is", "Paris", "zz"), NEURONS, other=OTHER, draws=1)
    assert told.answers == (" zz",)
    assert "target of 'In Paris is' is not what the model says" in told.note
    assert "1 of the other fact's 3 neurons" in told.note


# --- the published numbers -------------------------------------------------------------------------------------------

PUBLISHED = {
    "museum": Fact("{} is in downtown", "The Dipea Museum", " Tugea"),
    "occupation": Fact("{} works as a", "Delgea Delko", " poet"),
}


@pytest.mark.parametrize(("action", "name"), [("suppress", "suppress"), ("amplify", "enhance")])
@pytest.mark.parametrize("case", list(PUBLISHED))
def test_effects_equal_the_published_ones(case: str, action: Any, name: str, golden: Path, golden_model: Model) -> None:
    with np.load(golden / f"kn_{case}.npz") as file:
        refined, before, after = (file[key] for key in ("refined", f"{name}_before", f"{name}_after"))
    found = neuron_effects(golden_model, PUBLISHED[case], refined, action=action, site="pre", tokens=-1, draws=2)
    assert found.before[0] == pytest.approx(float(before), abs=1e-6)
    assert found.after[0] == pytest.approx(float(after), abs=4e-6)  # rounding differs by processor
    assert abs(float(before) - float(after)) > 1e-3
    with {"suppress": suppress, "amplify": amplify}[action](golden_model, refined, tokens=-1, site="pre"):
        assert probability(golden_model, PUBLISHED[case]) == pytest.approx(float(after), abs=4e-6)


# --- random neurons --------------------------------------------------------------------------------------------------


@given(data=st.data(), draws=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_random_neurons_are_of_the_same_layers_and_none_of_these(
    data: st.DataObject, draws: int, seed: int, tiny: Tiny
) -> None:
    model = tiny("gpt2")
    layers = st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, 63), min_size=1, max_size=32), min_size=1)
    neurons = data.draw(st.permutations([(layer, u) for layer, some in data.draw(layers).items() for u in some]))
    sets = random_neurons(model, neurons, draws, seed)
    assert len(sets) == draws
    for found in sets:
        assert [layer for layer, _ in found] == [layer for layer, _ in neurons]
        assert len(set(found)) == len(found)
        assert not set(found) & set(neurons)
        assert all(0 <= unit < 64 and type(unit) is int for _, unit in found)
    assert random_neurons(model, neurons, draws + 2, seed)[:draws] == sets


def test_random_neurons_cover_the_rest_evenly(tiny: Tiny) -> None:
    sets = random_neurons(tiny("gpt2"), [(1, unit) for unit in range(60)][:4], 3000, 0)
    counts = np.bincount([unit for found in sets for _, unit in found], minlength=64)
    assert counts[:4].sum() == 0
    assert np.abs(counts[4:] / 200 - 1).max() < 0.3  # 200 of each are expected, give or take 14
    assert random_neurons(tiny("gpt2"), NEURONS, 3, 1) != random_neurons(tiny("gpt2"), NEURONS, 3, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"action": "erase"}, "action 'erase' is unknown; expected one of suppress, amplify, set_to"),
        ({"tokens": "last"}, "tokens='last' is unknown; expected one of answer, subject_last, all"),
        ({"tokens": 50}, "token 50 is out of range: the prompt 'In Paris is'"),
        ({"tokens": [0, 0]}, "twice"),
        ({"tokens": None}, "expected a position"),
        ({"site": "middle"}, "site 'middle' is unknown"),
        ({"draws": 0}, "draws is 0; expected a whole number of at least 1"),
        ({"draws": 1.5}, "draws is 1.5"),
        ({"draws": True}, "draws is True"),
        ({"seed": -1}, "seed is -1"),
        ({"factor": float("inf")}, "factor is inf"),
        ({"value": float("nan")}, "value is nan"),
        ({"value": [1.0, 2.0]}, "value is"),
        ({"value": 1e39, "action": "set_to"}, "finite in torch.float32"),
        ({"max_rows": 0}, "max_rows"),
        ({"neighbours": "In Paris"}, "neighbours"),
        ({"neighbours": ["In Paris"]}, "neighbours"),
        ({"neighbours": Fact("In {}", "Paris")}, "neighbours"),
    ],
)
def test_settings_of_effects_are_checked(settings: dict[str, Any], message: str, tiny: Tiny) -> None:
    model = tiny("gpt2")
    with pytest.raises(TracerError, match=message):
        neuron_effects(model, fact(model), NEURONS, **settings)


def test_a_token_that_two_positions_name_is_refused(tiny: Tiny) -> None:
    model = tiny("gpt2")
    length = len(fact(model).align(model).input_ids)
    with pytest.raises(TracerError, match="twice"):
        neuron_effects(model, fact(model), NEURONS, tokens=(length - 1, -1))


def test_too_few_others_to_draw_from(tiny: Tiny) -> None:
    neurons = [(1, unit) for unit in range(33)]
    with pytest.raises(TracerError, match="33 neurons of layer 1 leave 31 others"):
        random_neurons(tiny("gpt2"), neurons, 1, 0)
    assert len(random_neurons(tiny("gpt2"), neurons[:32], 1, 0)[0]) == 32
