"""Attributions to neurons: the published numbers, plain loops on every architecture, and how the work is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from agreement import Tiny, fact
from torch import Tensor

import tracer.neurons.integrated_gradients as engine
from tracer.engine import row_budget
from tracer.engine.arriving import behind_norm
from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.facts.readout import Readout
from tracer.model import Model, load
from tracer.neurons.selection import NeuronAttribution, attribute_neurons, knowledge_neurons

PROMPTS = {"museum": "The Dipea Museum is in downtown", "occupation": "Delgea Delko works as a"}
ARCHITECTURES = ["gpt2", "opt", "bert", "llama", "gemma2", "gptj", "falcon", "bloom", "neox", "phi3"]


def plain(
    model: Model,
    about: Fact,
    site: str,
    alphas: Sequence[float],
    weights: Sequence[float],
    at: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray, float, np.ndarray]:
    """Scores and activations [layers, d_mlp], full, zero [layers]: one forward and backward per layer and α, over all
    tokens and layers, with hooks straight on the modules."""
    readout = Readout.of(model, about.align(model))
    ids, read = torch.tensor([readout.ids]), list(readout.read)
    index = read if at is None else list(at)
    with torch.no_grad():
        answer = readout.answer(model.hf(ids).logits[0, read])

    def p(layer: int, value: Tensor | None) -> tuple[Tensor, Tensor]:
        """Probability of the answer, and the state that was found at the site."""
        module = model.module({"post": "key", "pre": "pre"}[site], layer)
        seen: list[Tensor] = []

        def change(state: Tensor) -> Tensor:
            rows = state.reshape(-1, state.shape[-1]).clone()  # one prompt: a row per token
            seen.append(rows[index].detach())
            if value is not None:
                rows[index] = value
            return rows.reshape(state.shape)

        def divide(_: Any, args: tuple[Tensor], output: Tensor) -> Tensor:
            """A norm behind the MLP, with the divisor that it has where nothing is changed."""
            if value is None:
                ratios[layer] = (output / args[0]).detach()[0, index]
                return output
            return torch.cat(
                [
                    (args[0][0, i] * ratios[layer][index.index(i)] if i in index else output[0, i])[None]
                    for i in range(output.shape[1])
                ]
            )[None]

        if site == "post":
            handles = [module.register_forward_pre_hook(lambda _, args: (change(args[0]), *args[1:]))]
        else:
            handles = [module.register_forward_hook(lambda _, args, output: change(output))]  # type: ignore[arg-type]
        if behind_norm(model, layer):
            handles.append(model.module("mlp", layer).register_forward_hook(divide))
        try:
            logits = model.hf(ids).logits[0, read]
        finally:
            for handle in handles:
                handle.remove()
        return torch.softmax(logits, -1)[range(len(read)), answer].prod(), seen[0]

    ratios: dict[int, Tensor] = {}
    scores, activations, zero = [], [], []
    for layer in range(model.n_layers):
        full, own = p(layer, None)
        total = torch.zeros_like(own)
        for alpha, weight in zip(alphas, weights, strict=True):
            point = (alpha * own).requires_grad_()
            total += weight * torch.autograd.grad(p(layer, point)[0], point)[0]
        scores.append((own * total).sum(0).numpy())
        activations.append(own.mean(0).numpy())
        zero.append(p(layer, torch.zeros_like(own))[0].item())
    return np.stack(scores), np.stack(activations), full.item(), np.array(zero)


def agrees(found: NeuronAttribution, expected: tuple, tolerance: float) -> None:
    scores, activations, full, zero = expected
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=tolerance * np.abs(scores).max())
    np.testing.assert_allclose(found.activations, activations, rtol=0, atol=tolerance * np.abs(activations).max())
    assert found.full == pytest.approx(full, rel=tolerance)
    np.testing.assert_allclose(found.zero, zero, rtol=tolerance)
    assert np.abs(scores).max(1).min() > 100 * tolerance * np.abs(scores).max()  # no layer is without


# --- published numbers ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", PROMPTS)
def test_equals_the_published_arrays(case: str, golden: Path, golden_model: Model) -> None:
    with np.load(golden / f"kn_{case}.npz") as file:
        published = {name: file[name] for name in file.files}
    found = attribute_neurons(golden_model, PROMPTS[case], steps=20, site="pre")
    largest = np.abs(published["scores"]).max()
    np.testing.assert_allclose(found.scores, published["scores"], rtol=0, atol=1e-5 * largest)
    np.testing.assert_allclose(found.activations, published["activations"], rtol=0, atol=1e-5)
    assert found.full == pytest.approx(float(published["suppress_before"]), rel=1e-5)
    assert sorted(found.above(0.3)) == [tuple(pair) for pair in published["coarse"]]
    kept = knowledge_neurons(golden_model, PROMPTS[case], threshold=0.3, share=0.5, site="pre")
    assert sorted(kept) == [tuple(pair) for pair in published["refined"]]
    assert kept == found.above(0.3)


# --- a plain loop ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", [None, "Seattle"])
@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_plain_loop(architecture: str, site: Any, target: str | None, wide: Tiny) -> None:
    model = wide(architecture)
    if (architecture, site) == ("phi3", "pre"):
        with pytest.raises(TracerError, match="no site 'pre'"):
            attribute_neurons(model, fact(model), site=site)
        return
    about = fact(model, "space needle" if target and architecture == "bert" else target)
    readout = Readout.of(model, about.align(model))
    assert (len(readout.read) > 1) == (target is not None)
    found = attribute_neurons(model, about, 3, site=site)
    # GPT-J attends in float32 in a model of any type, and Gemma 2 and OLMo 2 have their norms in it
    close = 1e-5 if architecture in ("gptj", "gemma2", "olmo2") else 1e-10
    agrees(found, plain(model, about, site, [0.0, 0.5, 1.0], [1 / 3] * 3), close)
    assert found.positions == readout.read
    assert (found.steps, found.rule, found.site, found.method) == (3, "published", site, "integrated_gradients")
    assert len(found.tokens) == len(readout.ids)


@pytest.mark.parametrize("architecture", ["gpt2", "bert"])
@pytest.mark.parametrize("target", [None, "Seattle"])
def test_other_tokens_equal_the_plain_loop(architecture: str, target: str | None, wide: Tiny) -> None:
    model = wide(architecture)
    about = fact(model, "space needle" if target and architecture == "bert" else target)
    aligned = about.align(model)
    last, tokens = aligned.subject_range[1] - 1, len(aligned.input_ids)
    for token, at in (("subject_last", last), (1, 1), (-2, tokens - 2), (np.int64(0), 0)):
        where: Any = token
        found = attribute_neurons(model, about, 3, token=where, rule="gauss")
        nodes, weights = np.polynomial.legendre.leggauss(3)
        scores, activations, full, zero = plain(
            model, about, "post", ((nodes + 1) / 2).tolist(), (weights / 2).tolist(), [at]
        )
        np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-10 * np.abs(scores).max())
        np.testing.assert_allclose(found.activations, activations, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.zero, zero, rtol=1e-10)
        assert (found.positions, found.full) == ((at,), pytest.approx(full, rel=1e-10))
        # what the last block leaves at other tokens nobody reads
        assert (found.scores[-1] == 0).all() == (at not in aligned_read(model, about))


def aligned_read(model: Model, about: Fact) -> tuple[int, ...]:
    return Readout.of(model, about.align(model)).read


def test_one_step_is_at_zero(wide: Tiny) -> None:
    model = wide("gpt2")
    agrees(attribute_neurons(model, fact(model), 1), plain(model, fact(model), "post", [0.0], [1.0]), 1e-10)


# --- completeness ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("target", [None, "Seattle"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "olmo2", "bert"])
def test_scores_of_a_layer_add_up(architecture: str, target: str | None, wide: Tiny) -> None:
    model = wide(architecture)
    about = fact(model, "space needle" if target and architecture == "bert" else target)
    for site in ("post", "pre"):
        found = attribute_neurons(model, about, 20, site=site, rule="gauss")
        change = found.full - found.zero
        close = max(1e-6 * found.full, 1e-4 * np.abs(change).max())  # norms are in float32
        np.testing.assert_allclose(found.scores.sum(1), change, rtol=0, atol=close)
        np.testing.assert_array_equal(found.completeness, found.scores.sum(1) - (found.full - found.zero))
        assert np.abs(found.full - found.zero).min() > 1e-3 * found.full
        assert found.note == "" or target is not None
    errors = [np.abs(attribute_neurons(model, about, n).completeness).max() for n in (4, 16, 64)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]  # one over the steps


def test_a_sum_far_off_is_told(golden_model: Model) -> None:
    coarse = attribute_neurons(golden_model, PROMPTS["occupation"], 20)
    assert "scores of layer 0 add up to 0.731 instead of 0.944" in coarse.note
    fine = attribute_neurons(golden_model, PROMPTS["occupation"], 50, rule="gauss")
    assert fine.note == ""
    assert np.abs(fine.completeness).max() < 1e-4  # layer 0 has a steep place on its way


# --- how it is run ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("architecture", ["gpt2", "opt", "bert"])
def test_rows_are_chunked_and_the_numbers_stay(architecture: str, wide: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = wide(architecture)
    most: list[int] = []
    once = attribute_neurons(model, fact(model), 6)
    handle = model.module("hidden", 3).register_forward_hook(
        lambda _, args, output: most.append(len(output if isinstance(output, Tensor) else output[0]))
    )
    try:
        for rows in (1, 5, 7, 24):
            most.clear()
            some = attribute_neurons(model, fact(model), 6, max_rows=rows)
            assert max(most) == rows or (rows == 1 and max(most) == 2)  # two rows try out whether the batch can grow
            np.testing.assert_allclose(some.scores, once.scores, rtol=0, atol=1e-12 * np.abs(once.scores).max())
            np.testing.assert_allclose(some.zero, once.zero, rtol=1e-12)
        most.clear()
        monkeypatch.setattr(row_budget, "budget", lambda model: 1)
        attribute_neurons(model, fact(model), 6)
        assert len(most) >= 24 and max(most) <= 2
    finally:
        handle.remove()


def test_earlier_tokens_and_layers_are_not_run_again(tiny: Tiny) -> None:
    model = tiny("gpt2")
    seen: list[torch.Size] = []
    handles = [
        model.module("hidden", layer).register_forward_hook(lambda _, args, output: seen.append(output.shape))
        for layer in range(model.n_layers)
    ]
    try:
        attribute_neurons(model, fact(model), 5)
    finally:
        for handle in handles:
            handle.remove()
    assert [tuple(shape[:2]) for shape in seen[-4:]] == [(5, 1), (10, 1), (15, 1), (20, 1)]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_gradients_are_had_where_they_are_off(mode: Any, tiny: Tiny) -> None:
    model = tiny("llama")
    expected = attribute_neurons(model, fact(model), 3).scores
    with mode():
        found = attribute_neurons(model, fact(model), 3).scores
        assert not torch.is_grad_enabled()
    np.testing.assert_array_equal(found, expected)


def test_half_precision_and_offloaded_weights(tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    expected = attribute_neurons(model, fact(model), 5)
    half = load(tiny_folder("gpt2"), dtype=torch.bfloat16)
    rough = attribute_neurons(half, fact(half, None), 5)
    assert np.corrcoef(rough.scores.ravel(), expected.scores.ravel())[0, 1] > 0.99
    accelerate.cpu_offload(model.hf, execution_device=torch.device("cpu"))
    found = attribute_neurons(model, fact(model), 5)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-9)
    assert found.fingerprint == expected.fingerprint
    assert all(parameter.requires_grad for parameter in model.hf.parameters())


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_as_found(training: bool, tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("gpt2"))
    model.hf.train(training)
    model.module("hidden", 1).train(not training)
    next(model.hf.parameters()).requires_grad_(False)

    def state() -> tuple:
        modules = list(model.hf.modules())
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in modules]
        flags = [p.requires_grad for p in model.hf.parameters()], [p.grad for p in model.hf.parameters()]
        return model.fingerprint(), hooks, [m.training for m in modules], flags

    def fail(*_: Any) -> Any:
        raise KeyboardInterrupt

    before = state()
    first = attribute_neurons(model, fact(model), 3).scores
    assert state() == before
    np.testing.assert_array_equal(attribute_neurons(model, fact(model), 3).scores, first)  # and without dropout
    contrast = ["The trumpet", "The cello"]
    attribute_neurons(model, fact(model), method="activation_contrast", contrast=contrast)
    assert state() == before
    handle = model.module("attn", 3).register_forward_hook(fail)
    with_handle = state()
    try:
        for broken in (
            lambda: attribute_neurons(model, fact(model), 3),
            lambda: attribute_neurons(model, fact(model), method="activation_contrast", contrast=contrast),
        ):
            with pytest.raises(KeyboardInterrupt):
                broken()
            assert state() == with_handle
    finally:
        handle.remove()
    handle = model.module("unembed").register_full_backward_hook(fail)
    with_handle = state()
    try:
        with pytest.raises(KeyboardInterrupt):
            attribute_neurons(model, fact(model), 3)
        assert state() == with_handle
    finally:
        handle.remove()
    assert state() == before


# --- activation contrast ---------------------------------------------------------------------------------------------
def test_a_contrast_is_in_standard_deviations(wide: Tiny) -> None:
    model = wide("llama")
    facts = ["The Space Needle is in", Fact("Paris is the capital of", "Paris")]
    others = ["Miles Davis plays the", "Yo-Yo Ma plays", "The mother tongue"]
    found = attribute_neurons(model, facts, method="activation_contrast", contrast=others, site="pre")

    def values(about: Any) -> np.ndarray:
        return plain(model, about if isinstance(about, Fact) else Fact(about, about), "pre", [], [])[1]

    rest = np.stack([values(prompt) for prompt in others])
    own = np.mean([values(prompt) for prompt in facts], axis=0)
    np.testing.assert_allclose(found.scores, (own - rest.mean(0)) / rest.std(0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(found.activations, own, rtol=1e-6)
    assert np.isnan(found.zero).all() and np.isnan(found.completeness).all()
    assert found.full == pytest.approx(np.mean([attribute_neurons(model, about, 1).full for about in facts]))
    assert set(found.above(2.0)) == set(zip(*np.nonzero(found.scores > 2.0), strict=True))
    assert found.per_layer(2.0).tolist() == (found.scores > 2.0).sum(1).tolist()
    assert 0 < len(found.above(2.0)) < found.scores.size
    assert (found.method, found.steps, found.rule) == ("activation_contrast", 0, "")
    assert found.prompt == facts[0] and "mean over 2 prompts" in found.note
    kept = knowledge_neurons(model, facts, 2.0, 1.0, method="activation_contrast", contrast=others)
    both = [
        attribute_neurons(model, about, method="activation_contrast", contrast=others).above(2.0) for about in facts
    ]
    assert set(kept) == set(both[0]) & set(both[1]) != set()


def test_neurons_that_do_not_vary_over_the_contrast(tiny: Tiny) -> None:
    model = tiny("gpt2")
    one = engine.Attributor(model, 20, "activation_contrast", "post", "answer", "published", None)
    own = one.values([fact(model)])
    within = one.contrasted([fact(model)], own * torch.tensor([1.0, 1 + 2e-7, 1 - 3e-7])[:, None, None], "")
    assert (within.scores == 0).all()
    same = ["The Space Needle"] * 3
    found = attribute_neurons(model, same[0], method="activation_contrast", contrast=same)
    assert (found.scores == 0).all()
    other = attribute_neurons(model, "Miles Davis plays", method="activation_contrast", contrast=same)
    assert np.isfinite(other.scores).all() and np.median(np.abs(other.scores)) > 1e3
    assert ((other.scores > 0) == (other.activations > found.activations)).all()
