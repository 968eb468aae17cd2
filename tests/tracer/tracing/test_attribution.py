"""Gradient estimates against exact traces where the two must agree, and against gradients taken plainly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import KINDS, NOISE, fact, in_float64

from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.model import Model
from tracer.tracing.attribution_patching import attribution_trace
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise, TokenReplacement
from tracer.tracing.trace import CausalTrace

Tiny = Callable[[str], Model]


@pytest.fixture(scope="module")
def wide(tiny_folder: Callable[[str], Path]) -> Tiny:
    return in_float64(tiny_folder)


def one(trace: Any) -> CausalTrace:
    assert isinstance(trace, CausalTrace)
    return trace


@pytest.mark.parametrize("steps", [None, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gptj", "opt", "bloom", "gemma2", "falcon", "bert"])
def test_under_little_noise_it_is_the_exact_trace(architecture: str, kind: Any, steps: int | None, wide: Tiny) -> None:
    model = wide(architecture)
    errors = []
    for level in (1e-2, 1e-3):
        noise = GaussianNoise(level=level, samples=2)
        exact = causal_trace(model, fact(model), kind=kind, window=1, corruption=noise)
        estimate = one(attribution_trace(model, fact(model), kind=kind, window=1, corruption=noise, steps=steps))
        errors.append(np.abs(estimate.effect - exact.effect).max() / np.abs(exact.effect).max())
        assert (estimate.clean, estimate.corrupted) == pytest.approx((exact.clean, exact.corrupted), abs=1e-12)
    assert errors[1] < 0.05
    # first order: a tenth of the noise, a tenth of the error (some models compute parts in float32, which ends it)
    assert errors[1] < max(0.25 * errors[0], 1e-3)


@pytest.mark.parametrize("metric", ["logit_diff", "kl", "normalised_logit_diff"])
def test_every_metric_has_its_own_gradient(metric: str, wide: Tiny) -> None:
    noise = GaussianNoise(level=1e-4, samples=2)
    settings: Any = {"corruption": noise, "foil": " Seattle"}
    exact = causal_trace(wide("gpt2"), fact(wide("gpt2")), metric=metric, **settings)
    several: Any = attribution_trace(wide("gpt2"), fact(wide("gpt2")), metric=["prob", metric], **settings)
    estimate = several[1]
    assert [trace.metric for trace in several] == ["prob", metric]
    # the divergence is flat at the clean run: to first order it falls at twice the rate at which it comes back
    scale = 2 if metric == "kl" else 1
    tolerance = 5e-3 * np.abs(exact.effect).max()
    if metric == "kl":
        assert estimate.effect[-1, -1] == pytest.approx(scale * exact.effect[-1, -1], rel=5e-3)
    else:
        np.testing.assert_allclose(estimate.effect, exact.effect, atol=tolerance, rtol=0)


def test_more_steps_come_to_rest(wide: Tiny) -> None:
    model = wide("gpt2")
    few, more, most = (
        one(attribution_trace(model, fact(model), corruption=NOISE, steps=steps)).effect for steps in (1, 8, 64)
    )
    assert np.abs(more - most).max() < 0.1 * np.abs(few - most).max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_window_is_the_sum_of_its_layers(kind: Any, wide: Tiny) -> None:
    model = wide("gpt2")
    single = one(attribution_trace(model, fact(model), kind=kind, window=1, corruption=NOISE))
    several = one(attribution_trace(model, fact(model), kind=kind, window=3, corruption=NOISE))
    if kind == "hidden":
        np.testing.assert_array_equal(several.scores, single.scores)
        return
    for layer in range(model.n_layers):
        around = [other for other in (layer - 1, layer, layer + 1) if 0 <= other < model.n_layers]
        np.testing.assert_allclose(several.effect[:, layer], single.effect[:, around].sum(1), atol=1e-12)


def test_against_gradients_taken_plainly(wide: Tiny) -> None:
    model = wide("llama")
    trace = one(attribution_trace(model, fact(model), corruption=NOISE))
    found = fact(model).align(model)
    start, end = found.subject_range
    added = NOISE.level_for(model) * torch.from_numpy(NOISE.draw(end - start, model.d_model))
    states: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(model.n_layers)}

    def run(noise: torch.Tensor) -> torch.Tensor:
        def embedded(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
            return output + torch.nn.functional.pad(noise, (0, 0, start, output.shape[1] - end))

        handles = [model.module("embed").register_forward_hook(embedded)]
        for layer in range(model.n_layers):

            def keep(_: Any, __: Any, output: Any, layer: int = layer) -> None:
                states[layer].append(output if isinstance(output, torch.Tensor) else output[0])

            handles.append(model.module("hidden", layer).register_forward_hook(keep))
        try:
            return model.hf(torch.tensor([found.input_ids])).logits[0, -1].softmax(-1)
        finally:
            for handle in handles:
                handle.remove()

    answer = run(torch.zeros_like(added[0])).argmax()
    expected = np.zeros((len(found.input_ids), model.n_layers))
    for noise in added:
        p = run(noise)[answer]
        gradients = torch.autograd.grad(p, [states[layer][-1] for layer in range(model.n_layers)])
        for layer, gradient in enumerate(gradients):
            product = ((states[layer][0] - states[layer][-1]) * gradient).sum(-1)[0]
            expected[:, layer] += product.detach().numpy() / len(added)
    np.testing.assert_allclose(trace.effect, expected, atol=1e-12)
    assert np.ptp(expected) > 1e-6


@pytest.mark.parametrize("steps", [None, 2])
def test_chunks_and_selections_make_no_difference(steps: int | None, wide: Tiny) -> None:
    model = wide("gpt2")
    whole = one(attribution_trace(model, fact(model), corruption=NOISE, steps=steps))
    part = one(
        attribution_trace(
            model, fact(model), corruption=NOISE, steps=steps, max_rows=2, layers=[2, 0], tokens="subject_last"
        )
    )
    row = part.positions[0]
    assert row == part.subject_range[1] - 1
    np.testing.assert_allclose(part.scores[0], whole.scores[row][[2, 0]], atol=1e-12)


def test_answers_of_several_tokens_and_replaced_subjects(wide: Tiny) -> None:
    model = wide("gpt2")
    about = Fact("In {} is", "xyz", " Seattle")
    settings: Any = {"corruption": TokenReplacement("kqv"), "metric": "logit_diff"}
    exact = causal_trace(model, about, **settings)
    estimate = one(attribution_trace(model, about, steps=64, **settings))
    assert estimate.corruption == exact.corruption == {"name": "TokenReplacement", "subjects": ["kqv"], "samples": 1}
    assert estimate.scores.shape == exact.scores.shape == (len(exact.tokens), 4)
    assert (estimate.clean, estimate.corrupted) == pytest.approx((exact.clean, exact.corrupted))
    assert np.corrcoef(estimate.effect.ravel(), exact.effect.ravel())[0, 1] > 0.7


def test_the_model_is_left_as_it_was(tiny: Tiny) -> None:
    model = tiny("gpt2")
    before = model.fingerprint()
    for steps in (None, 2):
        trace = one(attribution_trace(model, fact(model), corruption=NOISE, steps=steps))
        assert trace.method == ("attribution" if steps is None else "integrated")
    assert model.fingerprint() == before
    assert all(parameter.grad is None for parameter in model.hf.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.hf.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps is 0; expected a whole number of at least 1, or None"),
        ({"steps": 1.5}, "steps is 1.5"),
        ({"sever": "mlp"}, "gradients do not sever paths; use causal_trace"),
        ({"kind": "key"}, "kind 'key' is unknown"),
        ({"layers": [9]}, "out of range"),
        ({"max_rows": 0}, "max_rows is 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=message):
        attribution_trace(tiny("gpt2"), fact(tiny("gpt2")), corruption=NOISE, **settings)
