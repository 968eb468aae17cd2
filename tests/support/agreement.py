"""What the tests of traces share: facts, models, and the comparison with the plain loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import reference
import torch
import transformers
from torch import nn

from tracer.facts.fact import Fact
from tracer.model import Model, load
from tracer.tracing.causal import causal_trace
from tracer.tracing.corruption import GaussianNoise

NOISE = GaussianNoise(level=0.5, samples=3)
KINDS: tuple[Any, ...] = ("hidden", "mlp", "attn")
PROMPT = "The Space Needle is in"
Tiny = Callable[[str], Model]
_GEMMA4 = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "head_dim": 8,
    "global_head_dim": 8,
    "sliding_window": 3,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": checkpoints.VOCABULARY,
}
# models whose blocks receive more than the state before: a slice made from the row's own embeddings, keys and values
# of an earlier block
SIDE_INPUTS: dict[str, dict[str, Any]] = {
    "slices": {**_GEMMA4, "num_hidden_layers": 4, "num_kv_shared_layers": 0},
    "slices and shared keys": {
        **_GEMMA4,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
    "shared by three": {
        **_GEMMA4,
        "num_hidden_layers": 5,
        "num_kv_shared_layers": 3,
        "layer_types": ["full_attention"] * 5,
    },
}


def in_float64(folder: Callable[[str], Path]) -> Tiny:
    """Tiny models in float64, where differences can only come from other arithmetic; each is loaded once."""
    made: dict[str, Model] = {}

    def model(architecture: str) -> Model:
        if architecture not in made:
            made[architecture] = load(folder(architecture), dtype=torch.float64)
        return made[architecture]

    return model


def fact(model: Model, target: str | None = None) -> Fact:
    return Fact("In {} is" if model.causal else "In {} is [MASK].", "Paris", target)


def plain(model: Model, about: Fact, kind: str, window: int) -> np.ndarray:
    """The trace by the plain loop."""
    found = about.align(model)
    start, end = found.subject_range
    read = range(found.answer_position, found.answer_position + max(1, len(found.target_ids)))
    ids = [*found.input_ids, *(found.target_ids[:-1] if model.causal else ())]
    with torch.no_grad():
        answer = found.target_ids or model.hf(torch.tensor([ids])).logits[0, list(read)].argmax(-1).tolist()

    def noise() -> np.ndarray:
        return NOISE.level_for(model) * NOISE.draw(end - start, model.d_embed)

    rows = range(len(found.input_ids))
    return reference.trace(model, ids, (start, end), noise, read, answer, kind=kind, window=window, tokens=rows)[0]


def agrees(model: Model, about: Fact, kind: Any, window: int = 3, atol: float = 1e-6) -> np.ndarray:
    """Check a trace against the plain loop; gives what that found."""
    trace = causal_trace(model, about, kind=kind, window=window, corruption=NOISE)
    expected = plain(model, about, kind, window)
    np.testing.assert_allclose(trace.scores, expected, atol=atol, rtol=0)
    assert np.ptp(expected) > 100 * atol, "a trace without contrast proves nothing"
    return expected


def with_side_inputs(name: str, dtype: torch.dtype = torch.float64) -> Model:
    """A tiny model of ``SIDE_INPUTS``."""
    model = variant("Gemma4TextConfig", SIDE_INPUTS[name])
    nn.Module.to(model.hf, dtype)
    return model


def variant(class_name: str, settings: dict[str, Any], family: str = "byte_level") -> Model:
    """A tiny model that is not in the table."""
    tokenizer = checkpoints.TOKENIZERS[family]()
    special = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    config = getattr(transformers, class_name)(**{**special, **settings, "vocab_size": len(tokenizer)})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        hf = transformers.AutoModelForCausalLM.from_config(config)
        hf.config.architectures = [type(hf).__name__]
        with torch.no_grad():
            for parameter in hf.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.15)
    return Model.of(hf.eval(), tokenizer, class_name)
