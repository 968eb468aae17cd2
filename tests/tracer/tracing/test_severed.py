"""Severed paths: against a plain loop, the published numbers, and what has to follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agreement import NOISE, fact, in_float64
from torch import Tensor

from tracer.errors import TracerError
from tracer.facts.fact import Fact
from tracer.model import Model
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise, TokenReplacement

Tiny = Callable[[str], Model]


@pytest.fixture(scope="module")
def wide(tiny_folder: Callable[[str], Path]) -> Tiny:
    return in_float64(tiny_folder)


def plainly(model: Model, about: Fact, sever: str, skip: int = 0) -> np.ndarray:
    """One forward to learn the outputs to keep, one per cell with hooks straight on the modules.

    ``skip``: how many draws of noise lie between the run whose outputs are kept and the runs they are kept in.
    """
    found = about.align(model)
    start, end = found.subject_range
    rows = 1 + NOISE.samples
    ids = torch.tensor([found.input_ids] * rows)
    answer = model.hf(ids[:1]).logits[0, found.answer_position].argmax()

    def run(noise: np.ndarray, change: Callable[[str, int, Tensor], None]) -> Tensor:
        def embedded(_: Any, __: Any, output: Tensor) -> None:
            output[1:, start:end] += NOISE.level_for(model) * torch.from_numpy(noise)

        def hooked(kind: str, layer: int) -> Any:
            def hook(_: Any, __: Any, output: Any) -> None:
                state = output if isinstance(output, Tensor) else output[0]
                change(kind, layer, state.view(rows, len(found.input_ids), -1))

            return hook

        handles = [model.module("embed").register_forward_hook(embedded)]
        for layer in range(model.n_layers):
            for kind in ("hidden", sever):
                handles.append(model.module(kind, layer).register_forward_hook(hooked(kind, layer)))
        try:
            return model.hf(ids).logits[1:, found.answer_position].softmax(-1)[:, answer]
        finally:
            for handle in handles:
                handle.remove()

    kept: dict[int, Tensor] = {}

    def keep(kind: str, layer: int, state: Tensor) -> None:
        if kind == sever:
            kept[layer] = state.clone()

    scores = np.empty((len(found.input_ids), model.n_layers))
    with torch.no_grad():
        run(NOISE.draw(end - start, model.d_model), keep)
        for token, restored in np.ndindex(*scores.shape):

            def change(kind: str, layer: int, state: Tensor, token: int = token, restored: int = restored) -> None:
                if kind == sever:
                    state[1:, token] = kept[layer][1:, token]
                elif layer == restored:
                    state[1:, token] = state[0, token]

            scores[token, restored] = run(NOISE.draw(end - start, model.d_model, skip), change).mean()
    return scores


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("sever", ["mlp", "attn"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gptj", "opt", "bloom", "gemma2", "falcon", "bert"])
def test_equal_to_the_plain_loop(architecture: str, sever: Any, published: bool, wide: Tiny) -> None:
    model = wide(architecture)
    about = fact(model)
    expected = plainly(model, about, sever, skip=int(published))
    trace = causal_trace(model, about, corruption=NOISE, sever=sever, published_noise=published)
    np.testing.assert_allclose(trace.scores, expected, atol=1e-9, rtol=0)
    assert trace.sever == sever
    ordinary = causal_trace(model, about, corruption=NOISE)
    assert trace.corrupted == ordinary.corrupted
    assert np.abs(trace.scores - ordinary.scores).max() > 1e-6, "severing has to matter"


@pytest.mark.parametrize("sever", [None, "mlp", "attn"])
@pytest.mark.parametrize("case", ["museum", "birthplace", "capital"])
def test_equal_to_the_published_ones(case: str, sever: Any, golden: Path, golden_model: Model) -> None:
    with np.load(golden / f"trace_{case}.npz") as file:
        published = {name: file[name] for name in file.files}
    trace = causal_trace(
        golden_model,
        Fact(str(published["prompt"]), str(published["subject"])),
        corruption=GaussianNoise(level=float(published["noise_level"])),
        tokens="subject_last",
        sever=sever,
        published_noise=True,
    )
    np.testing.assert_allclose(trace.scores[0], published[f"severed_{sever or 'ordinary'}"], atol=1e-6, rtol=0)
    assert trace.corrupted == pytest.approx(float(published["low_score"]), abs=1e-6)


def test_chunks_make_no_difference(tiny: Tiny) -> None:
    whole = causal_trace(tiny("gpt2"), fact(tiny("gpt2")), corruption=NOISE, sever="mlp", published_noise=True)
    parts = causal_trace(
        tiny("gpt2"), fact(tiny("gpt2")), corruption=NOISE, sever="mlp", published_noise=True, max_rows=2
    )
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6, rtol=0)


def test_in_the_last_layer_nothing_is_left_to_sever(tiny: Tiny) -> None:
    model = tiny("gpt2")
    ordinary = causal_trace(model, fact(model), corruption=NOISE, layers=[3])
    for sever in ("mlp", "attn"):
        severed = causal_trace(model, fact(model), corruption=NOISE, layers=[3], sever=sever)
        np.testing.assert_allclose(severed.scores, ordinary.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sever": "key"}, "sever is 'key'; expected 'mlp', 'attn', 'cross' or None"),
        ({"sever": "mlp", "kind": "attn"}, "severed paths are traced by restoring hidden states, not 'attn'"),
    ],
)
def test_what_cannot_be_severed_is_refused(settings: dict[str, Any], message: str, tiny: Tiny) -> None:
    with pytest.raises(TracerError, match=message):
        causal_trace(tiny("gpt2"), fact(tiny("gpt2")), corruption=NOISE, **settings)


def test_published_noise_needs_noise(tiny: Tiny) -> None:
    swap = TokenReplacement(candidates=["Spain", "trumpet", "Italy"])
    with pytest.raises(TracerError, match="published_noise is about draws of noise, and TokenReplacement draws none"):
        causal_trace(tiny("gpt2"), Fact("In {} is", "Seattle"), corruption=swap, sever="mlp", published_noise=True)
