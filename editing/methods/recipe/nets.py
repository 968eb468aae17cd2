"""RECIPE's parameters before any training, and its encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.soft_nets import ENCODER, KNOWLEDGE, MAKER, QUERY, SENTINEL, SHIFT

from .settings import RECIPEPreparation

if TYPE_CHECKING:
    from tracer.model import Model

HEAD = 16  # width of an encoder's heads, at least
SPREAD = 0.05  # of the sentinel's tokens, uniform, as published
DEPTH = 0.25  # of the states that know the words and not yet what is asked


def told_of(model: Model, settings: RECIPEPreparation) -> dict[str, Any]:
    """What a header says of what the heads read.

    Args:
        model: to be edited.
        settings: of the preparation.
    """
    if settings.reads == ENCODER:
        return {"by": ENCODER, "config": config_of(model, settings), "layers": None}
    layers = settings.layers or sorted({max(0, round(DEPTH * model.n_layers) - 1), max(0, model.n_layers - 2)})
    return {"by": settings.reads, "config": None, "layers": list(layers)}


def config_of(model: Model, settings: RECIPEPreparation) -> dict[str, Any]:
    """Configuration of a small RoBERTa over the model's tokens.

    Args:
        model: whose tokens it reads.
        settings: of the preparation.
    """
    width = settings.encoder_width
    return {
        "model_type": "roberta",
        "vocab_size": model.n_tokens + SHIFT,
        "hidden_size": width,
        "num_hidden_layers": settings.encoder_layers,
        "num_attention_heads": max(1, width // HEAD) if width % max(1, width // HEAD) == 0 else 1,
        "intermediate_size": 2 * width,
        "max_position_embeddings": min(model.n_ctx, 512) + 2,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "pad_token_id": 1,
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
    }


def new_parameters(width: int, d_model: int, settings: RECIPEPreparation, draw: torch.Generator) -> dict[str, Tensor]:
    """Heads, sentinel and maker, drawn as torch draws linear maps.

    Args:
        width: of what is read at one token.
        d_model: width of the model.
        settings: of the preparation.
        draw: random numbers.
    """
    found: dict[str, Tensor] = {}

    def linear(name: str, inputs: int, outputs: int) -> None:
        bound = inputs**-0.5
        found[f"{name}.weight"] = (torch.rand(outputs, inputs, generator=draw) * 2 - 1) * bound
        found[f"{name}.bias"] = (torch.rand(outputs, generator=draw) * 2 - 1) * bound

    rep = settings.rep
    for head in (KNOWLEDGE, QUERY):
        linear(f"{head}.linear", 4 * width, rep)
        linear(f"{head}.branch", rep, rep)
    linear(f"{MAKER}.hidden", rep, rep)
    linear(f"{MAKER}.out", rep, settings.vectors * d_model)
    found[SENTINEL] = (torch.rand(settings.sentinel, width, generator=draw) * 2 - 1) * SPREAD
    return found
