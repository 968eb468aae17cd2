"""Which tokens of a row a value is put at, counted from the token whose state was its key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

REPLACEMENTS = ("answer", "replace_last", "replace_prompt", "replace_all")
KEY_TOKENS = ("answer", "last")


def slots(replacement: str, offsets: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Which value is put at each token, and whether one is, [rows, tokens] both.

    Args:
        replacement: "answer": one value after the other, from the key's token on. As published: "replace_last": the
            first value at the key's token; "replace_prompt": at every token before it; "replace_all": at every token.
        offsets: tokens since the key's, [rows, tokens].
        counts: values of each row, [rows, 1].
    """
    if replacement == "answer":
        return offsets.clamp_min(0).minimum(counts - 1), (offsets >= 0) & (offsets < counts)
    inside = {"replace_last": offsets == 0, "replace_prompt": offsets < 0}.get(replacement)
    first = torch.zeros_like(offsets)
    return first, torch.ones_like(offsets, dtype=torch.bool) if inside is None else inside


def key_tokens(model: Model, prompts: Sequence[Ids], key_token: str) -> list[int]:
    """The token of each prompt whose state is the key.

    Args:
        model: whose tokenizer knows the mask.
        prompts: ids.
        key_token: "last", or "answer": of a masked model the first mask, where there is one.
    """
    mask = None if model.causal or key_token == "last" else getattr(model.tokenizer, "mask_token_id", None)
    return [prompt.index(mask) if mask in prompt else len(prompt) - 1 for prompt in prompts]
