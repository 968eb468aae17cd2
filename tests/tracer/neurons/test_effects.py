"""Acting on neurons against plain hooks; effects against the managers and the published numbers; controls, errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from agreement import Tiny, fact, in_float64
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tracer.engine.hooks import Add, Replace, Site, Units, as_ids, capture, intervene
from tracer.engine.sweep import record, sweep
from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.facts.readout import Readout
from tracer.model import Model
from tracer.neurons.effects import (
    NeuronEffects,
    amplify,
    neuron_effects,
    random_neurons,
    set_to,
    summarise_effects,
    suppress,
)
from tracer.neurons.interventions import units

TEXT = "The Space Needle is in"
NEURONS = [(2, 5), (0, 3), (0, 60), (3, 0)]
OTHER = [(1, 7), (3, 1), (0, 3)]
# flattened states (opt), gated MLPs (llama, gemma2), the residual added inside (bloom), read both ways (bert)
SOME = ["gpt2", "gptj", "opt", "llama", "gemma2", "bloom", "falcon", "bert"]


@pytest.fixture(scope="module")
def wide(tiny_folder: Callable[[str], Path]) -> Tiny:
    return in_float64(tiny_folder)


def logits(model: Model, text: str = TEXT) -> Tensor:
    with torch.no_grad():
        return model.hf(input_ids=as_ids(model, text)).logits


def by_hook(model: Model, site: str, change: Callable[[float, int], float], tokens: Sequence[int] | None) -> Tensor:
    """Logits with ``change(activation, which of NEURONS)`` made by a plain hook on the transformers modules."""
    count = as_ids(model, TEXT).shape[1]
    chosen = range(count) if tokens is None else [token % count for token in tokens]

    def edit(layer: int, state: Tensor) -> Tensor:
        new = state.clone()
        rows = new.view(count, -1)  # one prompt, flattened or not
        for number, (at, unit) in enumerate(NEURONS):
            for token in chosen if at == layer else ():
                rows[token, unit] = change(float(rows[token, unit]), number)
        return new

    handles = []
    for layer in range(model.n_layers):
        if site == "post":
            module = model.down_projection(layer).name.removesuffix(".weight")
            hook = lambda _, args, layer=layer: (edit(layer, args[0]),)  # noqa: E731
            handles.append(model.hf.get_submodule(module).register_forward_pre_hook(hook))
        else:
            after = lambda _, __, output, layer=layer: edit(layer, output)  # noqa: E731
            handles.append(model.module("pre", layer).register_forward_hook(after))
    try:
        return logits(model)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("architecture", SOME)
def test_managers_do_what_a_plain_hook_does(architecture: str, site: Any, wide: Tiny) -> None:
    model = wide(architecture)
    values = [0.5, -2.0, 1.5, 3.0]
    before = logits(model)
    for tokens, chosen in ((None, None), (-1, [-1]), ((0, 3), [0, 3])):
        for manager, change in (
            (suppress(model, NEURONS, tokens, site=site), lambda a, i: 0.0),
            (amplify(model, NEURONS, -3.0, tokens, site=site), lambda a, i: -3.0 * a),
            (set_to(model, NEURONS, 4.0, tokens, site=site), lambda a, i: 4.0),
            (set_to(model, NEURONS, values, tokens, site=site), lambda a, i: values[i]),
        ):
            with manager as inside:
                assert inside is model
                found = logits(model)
            torch.testing.assert_close(found, by_hook(model, site, change, chosen), atol=1e-12, rtol=1e-12)
            assert not torch.equal(found[:, -1], before[:, -1])


@pytest.mark.parametrize("architecture", SOME)
def test_a_factor_of_one_changes_no_bit(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    before = logits(model)
    for site in ("post", "pre"):
        with amplify(model, NEURONS, 1.0, site=site):
            assert torch.equal(logits(model), before)


@pytest.mark.parametrize("architecture", SOME)
def test_a_layer_without_its_units_is_its_bias(architecture: str, tiny: Tiny) -> None:
    model, layer = tiny(architecture), 1
    projection = model.module("key", layer)
    bias = torch.zeros(model.d_model) if getattr(projection, "bias", None) is None else projection.bias.detach()  # type: ignore[union-attr]
    with torch.no_grad(), suppress(model, [(layer, unit) for unit in range(model.d_mlp)]):
        found = capture(model, TEXT, [Site("mlp", layer)])[Site("mlp", layer)]
    assert torch.equal(found, bias.expand_as(found))


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "bert"])
def test_the_model_is_left_as_found(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)

    def state() -> tuple:
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.hf.modules()]
        return hooks, model.fingerprint(), [m.training for m in model.hf.modules()]

    before, own = state(), logits(model)
    for manager in (
        suppress(model, NEURONS),
        amplify(model, NEURONS, site="pre"),
        set_to(model, NEURONS, 1, tokens=-1),
    ):
        with pytest.raises(KeyboardInterrupt), manager:
            assert state()[0] != before[0]
            assert not torch.equal(logits(model), own)
            raise KeyboardInterrupt
        assert state() == before
        assert torch.equal(logits(model), own)
    neuron_effects(model, fact(model), NEURONS, other=OTHER, draws=2)
    with pytest.raises(TracerError, match="token 99"), suppress(model, NEURONS, 99):
        logits(model)
    assert state() == before
    assert torch.equal(logits(model), own)


def test_managers_nest_the_inner_one_last(wide: Tiny) -> None:
    model = wide("llama")
    some, rest = NEURONS[:2], NEURONS[2:]

    def inside(*managers: Any) -> Tensor:
        if not managers:
            return logits(model)
        with managers[0]:
            return inside(*managers[1:])

    both = inside(suppress(model, NEURONS))
    assert torch.equal(inside(suppress(model, some), suppress(model, rest)), both)
    assert torch.equal(inside(suppress(model, NEURONS), suppress(model, some)), both)
    assert torch.equal(inside(suppress(model, NEURONS), amplify(model, some, 5.0)), both)  # nothing to turn up
    assert torch.equal(inside(amplify(model, some, 5.0), suppress(model, NEURONS)), both)
    put = inside(set_to(model, NEURONS, 2.0))
    assert torch.equal(inside(suppress(model, NEURONS), set_to(model, NEURONS, 2.0)), put)
    assert torch.equal(inside(set_to(model, NEURONS, 1.0), amplify(model, NEURONS)), put)
    outer = suppress(model, NEURONS)
    with outer:
        with suppress(model, some):
            logits(model)
        assert torch.equal(logits(model), both)  # the inner one took only its own away


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "bloom"])
def test_generation_with_a_cache_is_acted_on_at_every_step(architecture: str, wide: Tiny) -> None:
    model, neurons = wide(architecture), [(layer, unit) for layer in range(4) for unit in range(0, 64, 2)]
    ids = as_ids(model, TEXT)
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids)
    generate: Any = model.hf.generate
    own = generate(ids, use_cache=True, **options)
    for tokens in (None, -1):
        expected = ids
        with torch.no_grad():
            for _ in range(5):  # the same without a cache: the prompt's last token, and every one generated
                acted = None if tokens is None else list(range(ids.shape[1] - 1, expected.shape[1]))
                with set_to(model, neurons, 3.0, acted):
                    scores = model.hf(input_ids=expected).logits[0, -1]
                scores[model.hf.generation_config.eos_token_id] = -torch.inf  # type: ignore[union-attr,index]
                expected = torch.cat([expected, scores.argmax()[None, None]], 1)
        with set_to(model, neurons, 3.0, tokens):
            found = generate(ids, use_cache=True, **options)
        assert torch.equal(found, expected)
        assert not torch.equal(found, own)


# --- the intervention itself -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["key", "pre", "hidden"])
@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama", "bert"])
def test_units_in_a_sweep_equal_units_in_a_forward(architecture: str, kind: str, wide: Tiny) -> None:
    model, ids = wide(architecture), as_ids(wide(architecture), TEXT).expand(3, -1)
    generator = torch.Generator().manual_seed(0)
    noise = Add(Site("embed", token=1), torch.randn(3, model.d_model, generator=generator))
    other = Units(Site(kind, 0, 2), (4,), 0.5, torch.randn(3, 1, generator=generator))  # in the base run, by row
    shared = Units(Site(kind, 1, -1), (1, 30, 2), 2.0, torch.randn(3, generator=generator))
    branches = [
        [shared],
        [shared, Units(Site(kind, 3, -1), (0, 31), -1.0, torch.randn(3, 2, generator=generator))],
        [Units(Site(kind, 2, 1), (9,), 0.0, torch.tensor([5.0])), Replace(Site("mlp", 3, -1), torch.zeros(32))],
    ]
    with torch.no_grad():
        for max_rows in (None, 2):
            base = record(model, ids, [noise, other], max_rows=max_rows)
            found = sweep(model, base, branches, lambda logits: logits[:, -1], max_rows=max_rows)
            for branch, result in zip(branches, found, strict=True):
                with intervene(model, [noise, other, *branch]):
                    expected = model.hf(input_ids=ids).logits[:, -1]
                torch.testing.assert_close(result, expected, atol=1e-9, rtol=1e-9)
                assert (result - base.logits[:, -1]).abs().max() > 1e-4


def test_gradients_flow_through_units(wide: Tiny) -> None:
    model, site = wide("gpt2"), Site("key", 1, -1)
    value = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        base = record(model, TEXT)
    found = sweep(model, base, [[Units(site, (3, 9), 2.0, value)]], lambda logits: logits[:, -1, 7])
    (gradient,) = torch.autograd.grad(found.sum(), [value])
    for i in range(2):
        moved = torch.zeros(2, dtype=torch.float64)
        moved[i] = 1e-6
        with torch.no_grad():
            step = sweep(model, base, [[Units(site, (3, 9), 2.0, moved)]], lambda logits: logits[:, -1, 7])
        assert float(gradient[i]) == pytest.approx(float((step - found.detach()).sum()) / 1e-6, rel=1e-4)
    state = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(Units(site, (2, 0), 4.0, torch.ones(2))(state).sum(), [state])
    assert gradient.tolist() == [[4.0, 1.0, 4.0]]


def test_units_keep_the_others_and_the_type() -> None:
    state = torch.tensor([[1.0, torch.inf, 3.0]], dtype=torch.bfloat16)
    item = Units(Site("key", 0, -1), (1, 0), 0.0, torch.tensor([5.0, 6.0], dtype=torch.float64))
    assert torch.equal(item(state), torch.tensor([[6.0, 5.0, 3.0]], dtype=torch.bfloat16))
    assert state[0, 1] == torch.inf


@pytest.mark.parametrize("index", [(), (1, 1), (-1,), (0.5,), "ab", 3])
def test_units_that_are_none_are_refused(index: Any) -> None:
    with pytest.raises(TracerError, match="each once"):
        Units(Site("key", 0), index, 1.0, torch.zeros(1))


def test_units_that_do_not_fit_are_refused(tiny: Tiny) -> None:
    model = tiny("gpt2")
    fits, far, wrong = (
        Units(Site("key", 1, -1), index, 1.0, torch.zeros(width))
        for index, width in (((3, 4), 2), ((3, 64), 2), ((3, 4), 3))
    )
    with torch.no_grad():
        base = record(model, TEXT)
        with pytest.raises(TracerError, match=r"unit 64 of .* 0 to 63"), intervene(model, [far]):
            logits(model)
        with pytest.raises(TracerError, match=r"unit 64 of .* 0 to 63"):  # before anything is run
            sweep(model, base, [[fits], [far]], lambda logits: pytest.fail("ran"), max_rows=1)
        with pytest.raises(TracerError, match=r"shape \[3\] does not fit"), intervene(model, [wrong]):
            logits(model)
        with pytest.raises(TracerError, match=r"expected \[2\] or \[1, 2\]"):
            sweep(model, base, [[wrong]], lambda logits: logits)


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
    assert found.after[0] == pytest.approx(float(after), abs=1e-6)
    assert abs(float(before) - float(after)) > 1e-3
    with {"suppress": suppress, "amplify": amplify}[action](golden_model, refined, tokens=-1, site="pre"):
        assert probability(golden_model, PUBLISHED[case]) == pytest.approx(float(after), abs=1e-6)


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


# --- the result ------------------------------------------------------------------------------------------------------

RESULT = NeuronEffects(
    action="amplify",
    factor=2.0,
    value=0.0,
    neurons=((0, 1), (3, 2)),
    other_neurons=((1, 1),),
    facts=("The [b] Needle is in", "Der [MASK] steht in Zürich"),
    answers=(" Seattle", " 東"),
    before=np.array([0.5, 0.2]),
    after=np.array([0.25, 0.3]),
    random=np.array([[0.5, 0.55, 0.45], [0.2, 0.2, 0.26]]),
    other=np.array([0.6, 0.1]),
    subject="Needle",
    tokens=(0, -1),
    site="pre",
    seed=3,
    model="tiny",
    fingerprint="abc",
    note="a remark",
)


def test_changes_and_frame() -> None:
    np.testing.assert_allclose(RESULT.change, [-0.5, 0.5])
    np.testing.assert_allclose(RESULT.random_change, [[0, 0.1, -0.1], [0, 0, 0.3]], atol=1e-15)
    np.testing.assert_allclose(RESULT.other_change, [0.2, -0.5])  # type: ignore[arg-type]
    frame = RESULT.to_frame()
    assert list(frame.columns) == ["prompt", "role", "condition", "draw", "before", "after", "change"]
    assert frame["role"].tolist() == ["fact"] * 5 + ["neighbour"] * 5
    assert frame["condition"].tolist() == ["neurons", "random", "random", "random", "other"] * 2
    assert frame["draw"].isna().tolist() == [True, False, False, False, True] * 2
    assert frame["draw"].dropna().tolist() == [0, 1, 2] * 2
    np.testing.assert_allclose(frame["after"], [0.25, 0.5, 0.55, 0.45, 0.6, 0.3, 0.2, 0.2, 0.26, 0.1])
    np.testing.assert_allclose(frame["change"], frame["after"] / frame["before"] - 1)
    without = dataclasses.replace(RESULT, other=None, other_neurons=())
    assert without.other_change is None
    assert "other" not in without.to_frame()["condition"].tolist()
    zero = dataclasses.replace(RESULT, before=np.array([0.0, 0.2]))
    assert np.isnan(zero.change).tolist() == [True, False]
    assert np.isnan(zero.to_frame()["change"]).sum() == 5


def test_the_table_shows_every_control() -> None:
    text = str(RESULT)
    for part in ("2 neurons of tiny times 2 at tokens [0, -1]", "The [b] Needle", "[MASK]", "Seattle", "0.5000"):
        assert part in text
    for part in ("-50.0%", "+0.0% (-9.5% to +9.5%)", "+20.0%", "neighbour", "Note: a remark", "3 random sets"):
        assert part in text
    assert "other" not in str(dataclasses.replace(RESULT, other=None, note=""))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    for number, result in enumerate((RESULT, dataclasses.replace(RESULT, other=None, tokens="all", other_neurons=()))):
        path = result.save(tmp_path / f"{number}.npz")
        loaded = NeuronEffects.load(path)
        for field in dataclasses.fields(NeuronEffects):
            ours, theirs = getattr(result, field.name), getattr(loaded, field.name)
            assert type(ours) is type(theirs)
            assert np.array_equal(ours, theirs) if isinstance(ours, np.ndarray) else ours == theirs
        assert str(loaded) == str(result)
    (tmp_path / "no.npz").write_bytes(b"no")
    with pytest.raises(TracerError, match=r"not a saved (tracer\.)?NeuronEffects"):
        NeuronEffects.load(tmp_path / "no.npz")
    with pytest.raises(ValueError, match="read-only"):
        RESULT.after[0] = 1


@pytest.mark.parametrize("field", ["before", "after", "random", "other"])
def test_arrays_of_another_shape_are_refused(field: str) -> None:
    with pytest.raises(TracerError, match=f"{field} of neuron effects"):
        dataclasses.replace(RESULT, **{field: np.zeros(3)})


# --- over many facts -------------------------------------------------------------------------------------------------


def many(subjects: Sequence[str], seed: int = 0) -> list[NeuronEffects]:
    """Results with other numbers for every fact; every third without the other fact's neurons."""
    generator = np.random.default_rng(seed)
    found = []
    for i, subject in enumerate(subjects):
        numbers = generator.uniform(0.1, 0.9, (4, 2))
        settings: dict[str, Any] = {"before": numbers[0], "after": numbers[1], "other": numbers[2] if i % 3 else None}
        random = generator.uniform(0.1, 0.9, (2, 3 + i % 2))
        found.append(dataclasses.replace(RESULT, subject=subject, random=random, **settings))
    return found


def test_means_over_facts() -> None:
    effects = many("abcdefgh")
    frame = summarise_effects(effects).set_index(["role", "condition"])
    assert frame.index.tolist() == [(r, c) for r in ("fact", "neighbour") for c in ("neurons", "random", "other")]
    for i, role in enumerate(("fact", "neighbour")):
        cases = {
            "neurons": [(e.after[i], e.before[i]) for e in effects],
            "random": [(e.random[i], e.before[i]) for e in effects],
            "other": [(e.other[i], e.before[i]) for e in effects if e.other is not None],
        }
        for condition, pairs in cases.items():
            row: Any = frame.loc[(role, condition)]
            assert row["change"] == pytest.approx(np.mean([np.mean(a / b - 1) for a, b in pairs]))
            assert row["difference"] == pytest.approx(np.mean([np.mean(a - b) for a, b in pairs]))
            assert row["prompts"] == row["subjects"] == len(pairs)
            assert row["change_low"] < row["change"] < row["change_high"]
            assert row["difference_low"] < row["difference"] < row["difference_high"]
    pd.testing.assert_frame_equal(summarise_effects(effects), summarise_effects(effects))
    assert not summarise_effects(effects, seed=1).equals(summarise_effects(effects))
    assert "other" not in summarise_effects(effects[:1])["condition"].tolist()


def test_the_interval_draws_subjects() -> None:
    subjects = list("aabbbcdeffghij")
    effects = many(subjects, seed=2)
    row: Any = summarise_effects(effects, resamples=4000).iloc[0]
    change = np.array([e.change[0] for e in effects])
    generator, means = np.random.default_rng(5), []
    names = sorted(set(subjects))
    for _ in range(4000):
        drawn = generator.choice(names, len(names))
        means.append(np.mean(np.concatenate([change[np.array(subjects) == name] for name in drawn])))
    low, high = np.quantile(means, [0.025, 0.975])
    assert row["change_low"] == pytest.approx(low, abs=0.05 * (high - low))
    assert row["change_high"] == pytest.approx(high, abs=0.05 * (high - low))
    assert (row["prompts"], row["subjects"]) == (14, 10)
    narrow: Any = summarise_effects(effects, confidence=0.5).iloc[0]
    assert narrow["change_high"] - narrow["change_low"] < 0.6 * (high - low)
    twice: Any = summarise_effects(effects * 2, resamples=4000).iloc[0]  # the same subjects again tell nothing new
    assert twice["change_high"] - twice["change_low"] == pytest.approx(high - low, rel=0.1)
    alone: Any = summarise_effects(effects[:2]).iloc[0]
    assert alone["subjects"] == 1 and np.isnan(alone["change_low"])


def test_prompts_that_had_no_probability_are_left_out_of_relative_changes() -> None:
    effects = many("abcde")
    effects.append(dataclasses.replace(effects[0], subject="f", before=np.zeros(2)))
    row: Any = summarise_effects(effects).iloc[0]
    assert row["change"] == pytest.approx(np.mean([e.change[0] for e in effects[:5]]))
    assert row["difference"] == pytest.approx(np.mean([e.after[0] - e.before[0] for e in effects]))


# --- errors ----------------------------------------------------------------------------------------------------------

BAD_NEURONS: list[tuple[Any, str]] = [
    ([], "neurons are empty"),
    ([(4, 0)], "layers 0 to 3 with units 0 to 63"),
    ([(0, 64)], r"neuron \(0, 64\)"),
    ([(-1, 0)], r"neuron \(-1, 0\)"),
    ([(0, 1), (2, 2), (0, 1)], r"neuron \(0, 1\) is named twice"),
    ([(0, 1.5)], "whole numbers"),
    ([3, 4], "whole numbers"),
    ("ab", "whole numbers"),
]


@pytest.mark.parametrize(("neurons", "message"), BAD_NEURONS)
def test_neurons_that_are_none_are_refused(neurons: Any, message: str, tiny: Tiny) -> None:
    model = tiny("gpt2")
    for call in (
        lambda: suppress(model, neurons).__enter__(),
        lambda: amplify(model, neurons).__enter__(),
        lambda: set_to(model, neurons, 1.0).__enter__(),
        lambda: random_neurons(model, neurons, 1, 0),
        lambda: neuron_effects(model, fact(model), neurons),
    ):
        with pytest.raises(TracerError, match=message):
            call()
    with pytest.raises(TracerError, match=message.replace("neurons are", "other are")):
        neuron_effects(model, fact(model), NEURONS, other=neurons)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: amplify(m, NEURONS, float("nan")), "factor is nan"),
        (lambda m: amplify(m, NEURONS, float("inf")), "factor is inf"),
        (lambda m: amplify(m, NEURONS, None), "factor is None"),  # type: ignore[arg-type]
        (lambda m: set_to(m, NEURONS, float("inf")), "finite in torch.float32"),
        (lambda m: set_to(m, NEURONS, 1e39), "finite in torch.float32"),
        (lambda m: set_to(m, NEURONS, [0, 1, 2, float("nan")]), "finite in torch.float32"),
        (lambda m: set_to(m, NEURONS, [1.0, 2.0]), r"expected a number, or one per neuron, \[4\]"),
        (lambda m: set_to(m, NEURONS, np.zeros((4, 1))), r"\[4, 1\]"),
        (lambda m: set_to(m, NEURONS, "much"), "value is 'much'"),  # type: ignore[arg-type]
        (lambda m: suppress(m, NEURONS, site="key"), "site 'key' is unknown"),  # type: ignore[arg-type]
        (lambda m: suppress(m, NEURONS, []), "expected a position"),
        (lambda m: suppress(m, NEURONS, "all"), "expected a position"),  # type: ignore[arg-type]
        (lambda m: suppress(m, NEURONS, 1.5), "expected a position"),  # type: ignore[arg-type]
        (lambda m: suppress(m, NEURONS, [1, 1]), "twice"),
        (lambda m: suppress(m, NEURONS, [0, -1]), "from one end"),
    ],
)
def test_settings_of_a_manager_are_checked(make: Callable[[Model], Any], message: str, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=message), make(tiny("gpt2")):
        pass


@pytest.mark.parametrize("tokens", [99, -99, [1, 99]])
def test_a_token_out_of_range_is_noticed_at_the_forward(tokens: Any, tiny: Tiny) -> None:
    model = tiny("gpt2")
    with pytest.raises(TracerError, match=r"99 .* out of range"), suppress(model, NEURONS, tokens):
        logits(model)


def test_a_model_without_the_site_says_so(tiny: Tiny) -> None:
    with pytest.raises(TracerError, match="no site 'pre'"), suppress(tiny("phi3"), NEURONS, site="pre"):
        pass


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


@pytest.mark.parametrize(
    ("effects", "settings", "message"),
    [
        ([], {}, "0 effects"),
        ([RESULT, dataclasses.replace(RESULT, action="suppress")], {}, "2 interventions"),
        ([RESULT, dataclasses.replace(RESULT, fingerprint="other")], {}, "2 interventions"),
        ([RESULT], {"resamples": 0}, "resamples"),
        ([RESULT], {"confidence": 1.0}, "confidence"),
        ([RESULT], {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_summarised(effects: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        summarise_effects(effects, **settings)


def test_units_are_one_intervention_per_layer_and_position(tiny: Tiny) -> None:
    items = units(tiny("gpt2"), NEURONS, 0.0, [1, 2, 3, 4], "post", [0, None])
    assert [(item.site, item.index) for item in items if isinstance(item, Units)] == [
        (Site("key", layer, token), index)
        for layer, index in ((0, (3, 60)), (2, (5,)), (3, (0,)))
        for token in (0, None)
    ]
    assert [item.value.tolist() for item in items[::2]] == [[2, 3], [1], [4]]
