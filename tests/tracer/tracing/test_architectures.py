"""Traces by the branched sweep against the plain loop, on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import checkpoints
import numpy as np
import pytest
import torch
from agreement import (
    KINDS,
    NOISE,
    PROMPT,
    SIDE_INPUTS,
    Tiny,
    agrees,
    fact,
    in_float64,
    plain,
    variant,
    with_side_inputs,
)

from tracer.engine.hooks import Replace, Site, as_ids, intervene
from tracer.engine.sweep import record
from tracer.model import Model, load
from tracer.tracing.case import Setting
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import TokenReplacement


@pytest.fixture(scope="module")
def wide(tiny_folder: Callable[[str], Path]) -> Tiny:
    return in_float64(tiny_folder)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_equals_the_plain_loop(architecture: str, kind: Any, tiny: Tiny) -> None:
    agrees(tiny(architecture), fact(tiny(architecture)), kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", checkpoints.ARCHITECTURES)
def test_equals_the_plain_loop_in_float64(architecture: str, kind: Any, wide: Tiny) -> None:
    # rotary tables, ALiBi slopes and some softmaxes are float32 whatever the weights are
    agrees(wide(architecture), fact(wide(architecture)), kind, atol=1e-7)


@pytest.mark.parametrize("window", [1, 2, 4, 5, 50])
@pytest.mark.parametrize("kind", ["mlp", "attn"])
def test_every_window_equals_the_plain_loop(kind: Any, window: int, wide: Tiny) -> None:
    agrees(wide("gpt2"), fact(wide("gpt2")), kind, window, atol=1e-9)


VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("mistral", {"sliding_window": 4}),
    ("gemma2", {"sliding_window": 3}),
    ("neo", {"window_size": 3}),
    ("falcon", {"alibi": True}),
    ("falcon_new", {"alibi": True}),
    ("gpt2", {"attn_implementation": "eager"}),
    ("llama", {"attn_implementation": "eager"}),
]


@pytest.fixture(scope="module", params=VARIANTS, ids=[name for name, _ in VARIANTS])
def varied(request: pytest.FixtureRequest) -> Model:
    architecture, settings = request.param
    class_name, usual, family = checkpoints.ARCHITECTURES[architecture]
    return variant(class_name, {**usual, **settings}, family)


@pytest.mark.parametrize("kind", KINDS)
def test_variants_equal_the_plain_loop(varied: Model, kind: Any) -> None:
    agrees(varied, fact(varied), kind)


_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}
# architectures that nothing here was written for: (configuration, its settings, whether the batch can grow inside)
OTHERS = [
    ("MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 64}, True),
    ("MixtralConfig", {**_SIZES, "num_local_experts": 4}, True),
    ("Gemma3TextConfig", {**_SIZES, "head_dim": 8, "sliding_window": 3}, True),
    ("GPTBigCodeConfig", {"n_embd": 32, "n_layer": 4, "n_head": 4}, False),
    ("XGLMConfig", {"d_model": 32, "num_layers": 4, "attention_heads": 4, "ffn_dim": 64, "pad_token_id": 1}, False),
]


@pytest.fixture(scope="module", params=OTHERS, ids=[name for name, _, _ in OTHERS])
def other(request: pytest.FixtureRequest) -> tuple[Model, bool]:
    class_name, settings, grows = request.param
    return variant(class_name, settings), grows


@pytest.mark.parametrize("kind", KINDS)
def test_other_architectures_equal_the_plain_loop(other: tuple[Model, bool], kind: Any) -> None:
    model, grows = other
    agrees(model, fact(model), kind)
    with torch.no_grad():
        base = record(model, PROMPT)
    assert base.grows == grows
    assert base.prefix is not None


@pytest.fixture(scope="module", params=SIDE_INPUTS)
def beside(request: pytest.FixtureRequest) -> Model:
    return with_side_inputs(request.param)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_block_receives_beside_the_state_follows_its_row(beside: Model, kind: Any) -> None:
    expected = agrees(beside, fact(beside), kind, atol=1e-7)
    trace = causal_trace(beside, fact(beside), kind=kind, window=3, corruption=NOISE, max_rows=1)
    np.testing.assert_allclose(trace.scores, expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_block_receives_follows_rows_of_other_tokens(kind: Any) -> None:
    model = with_side_inputs("slices")
    swap = TokenReplacement("capital")
    trace = causal_trace(model, fact(model), kind=kind, window=3, corruption=swap)
    with torch.no_grad():
        rows = swap.corrupt(model, as_ids(model, trace_ids(model))[0], trace.subject_range, fact(model)).ids
        clean = record(model, rows[:1], kinds=(kind,))
        for token, layer in np.ndindex(trace.scores.shape):
            restored = Setting.checked(kind, 3, "prob", None, None, model.n_layers).restored(layer)
            items = [Replace(Site(kind, at, token), clean.states[kind, at][:, token]) for at in restored]
            with intervene(model, items):
                logits = model.hf(input_ids=rows[1:]).logits[:, -1]
            answer = int(clean.logits[0, -1].argmax())
            assert trace.scores[token, layer] == pytest.approx(float(logits.softmax(-1)[:, answer].mean()), abs=1e-7)


def trace_ids(model: Model) -> list[int]:
    return list(fact(model).align(model).input_ids)


def test_a_model_without_keys_and_values_equals_the_plain_loop() -> None:
    model = variant("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 4, "state_size": 8})
    agrees(model, fact(model), "hidden")
    with torch.no_grad():
        assert record(model, PROMPT).prefix is None


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_equals_the_plain_loop(kind: Any, tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder("llama"), dtype=torch.bfloat16)
    trace = causal_trace(model, fact(model), kind=kind, window=3, corruption=NOISE)
    np.testing.assert_allclose(trace.scores, plain(model, fact(model), kind, 3), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bloom", "bert"])
def test_answers_of_several_tokens_equal_the_plain_loop(architecture: str, kind: Any, wide: Tiny) -> None:
    model = wide(architecture)
    about = fact(model, "space needle" if architecture == "bert" else "Seattle")
    assert len(about.align(model).target_ids) > 1
    trace = causal_trace(model, about, kind=kind, window=3, corruption=NOISE)
    expected = plain(model, about, kind, 3)
    np.testing.assert_allclose(trace.scores, expected, atol=0, rtol=1e-5)
    assert np.ptp(np.log(expected)) > 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "bloom"])
def test_offloaded_weights_give_the_same(architecture: str, kind: Any, tiny_folder: Callable[[str], Path]) -> None:
    model = load(tiny_folder(architecture))
    expected = causal_trace(model, fact(model), kind=kind, window=3, corruption=NOISE)
    accelerate.cpu_offload(model.hf, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in model.hf.parameters())
    trace = causal_trace(model, fact(model), kind=kind, window=3, corruption=NOISE)
    np.testing.assert_array_equal(trace.scores, expected.scores)
    assert trace.fingerprint == expected.fingerprint
