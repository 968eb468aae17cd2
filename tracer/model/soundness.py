"""Soundness of a model just read from a quantised file: its perplexity on a short passage."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from tracer.errors import TracerNote

if TYPE_CHECKING:
    from .model import Model

PASSAGE = (
    "In the morning the children walked to school along the river. It had rained all night, and the water was high "
    "and brown. Their teacher was waiting at the door with a cup of coffee in her hand. She told them to leave their "
    "wet shoes outside and to come in quickly, because the lesson was about to begin. Today they would learn how "
    "bread is made, and after lunch they were going to visit the baker in the village."
)
# SmolLM2 135M reads the passage at 17, Gemma 3 270M at 12; a Gemma that transformers 5.17 dequantised, at over 1,000
LIMIT = 300.0


def perplexity(model: Model, text: str = PASSAGE) -> float:
    """Perplexity per token of a text (of the part that fits the context), behind the tokenizer's special tokens."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"][: model.n_ctx]], device=model.device)
    with torch.no_grad():
        logits = model.hf(input_ids=ids, use_cache=False).logits[0, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:].to(logits.device))
    return float(losses.exp())


def check_sound(model: Model) -> None:
    """Check that a causal model does not find the passage as surprising as noise.

    Some versions of transformers dequantise some architectures wrongly, and nothing else would tell.

    Warns:
        TracerNote: it does, so it was not read rightly.
    """
    from transformers import __version__

    if max(model.tokenizer(PASSAGE)["input_ids"]) >= model.n_tokens:  # type: ignore[type-var,operator]
        return  # which is said apart
    found = perplexity(model) if model.causal else 0.0
    if not found <= LIMIT:  # also if it is nan
        warnings.warn(
            f"{model.name!r} talks nonsense: its perplexity on plain English is {found:,.0f}, and language models have "
            f"less than {LIMIT:.0f}. transformers {__version__} may read this architecture's GGUF wrongly: install "
            "another version, or take the model's safetensors (unless it was never trained on English)",
            TracerNote,
            stacklevel=4,
        )
