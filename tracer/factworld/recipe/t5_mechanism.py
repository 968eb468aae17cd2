"""Training forward pass of the embedded T5, with the structured dropout that plants the mechanism.

As in `tracer.factworld.recipe.mechanism`, with an encoder and a decoder in the place of one stack. In most training
batches three paths are closed:

1. in encoder layers below `read` the tokens of a mention and those outside see only each other, so that a mention's
   last token has to be enriched there, from the name alone;
2. from `read` on, and in all cross-attention of the decoder, only the last of a mention's tokens can be read from
   outside;
3. in a share of these batches the MLPs outside the `band` of encoder layers are dropped, the decoder's among them.

At use nothing is closed; the remaining batches run open and add the attention that takes a closed path to the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from transformers import T5ForConditionalGeneration


@dataclass(frozen=True)
class T5Mechanism:
    """Layers of recall in the encoder, and the dropout that puts it there.

    Attributes:
        band: first and last encoder layer (inclusive) whose MLPs always run.
        read: first encoder layer in which a mention's last token can be read by tokens outside.
        masked: share of batches with closed attention paths (1, 2).
        dropped: share of those in which the MLPs outside the band are dropped (3).
        penalty: weight of stray attention in the loss of the other batches.
    """

    band: tuple[int, int] = (1, 3)
    read: int = 3
    masked: float = 0.75
    dropped: float = 0.6
    penalty: float = 0.1


@dataclass(frozen=True)
class Masks:
    """Boolean masks, true where a token may attend.

    Attributes:
        early: of encoder layers below `read`, [rows, 1, source, source].
        late: of encoder layers from it on.
        cross: of cross-attention, [rows, 1, 1, source].
    """

    early: Tensor
    late: Tensor
    cross: Tensor


def masks_of(real: Tensor, mention: Tensor, last: Tensor) -> Masks:
    """The masks that close paths 1 and 2, from [rows, source] bool: no padding, in a mention, the last of it."""
    same = mention[:, :, None] == mention[:, None, :]
    read = ~mention | last
    keys = real[:, None, None, :]
    return Masks(same[:, None] & keys, (same | read[:, None, :])[:, None] & keys, read[:, None, None, :] & keys)


def forward(
    model: T5ForConditionalGeneration,
    source: Tensor,
    real: Tensor,
    forced: Tensor,
    masks: Masks,
    mechanism: T5Mechanism,
    closed: bool,
    dropped: bool,
) -> tuple[Tensor, Tensor]:
    """States of the decoder as the unembedding takes them [rows, steps, d], and stray attention, a scalar.

    The states are the model's own where nothing is closed; there is no stray attention where paths are.

    Args:
        model: supplies the weights.
        source: ids [rows, source].
        real: [rows, source] bool, which of them are not padding.
        forced: ids of the decoder [rows, steps].
        masks: of the rows.
        mechanism: layers of recall.
        closed: whether the masks close paths, or only tell which attention is stray.
        dropped: whether the MLPs outside the band are dropped.
    """
    low, high = mechanism.band
    keys, steps = real[:, None, None, :], forced.shape[1]
    x, stray, bias = model.shared(source), torch.zeros(()), None
    body: Any = model.encoder
    for layer, block in enumerate(body.block):
        allowed = masks.early if layer < mechanism.read else masks.late
        bias = _bias(block, source.shape[1]) if bias is None else bias
        added, mass = _attention(
            block.layer[0].SelfAttention, block.layer[0].layer_norm(x), None, allowed, keys, bias, closed
        )
        x, stray = x + added, stray + mass
        if low <= layer <= high or not dropped:
            x = x + block.layer[1].DenseReluDense(block.layer[1].layer_norm(x))
    memory = body.final_layer_norm(x)
    x, bias = model.shared(forced), None
    before = torch.ones(steps, steps, dtype=torch.bool).tril()[None, None]
    body = model.decoder
    for block in body.block:
        bias = _bias(block, steps) if bias is None else bias
        added, _ = _attention(
            block.layer[0].SelfAttention, block.layer[0].layer_norm(x), None, before, before, bias, True
        )
        x = x + added
        cross = block.layer[1]
        added, mass = _attention(cross.EncDecAttention, cross.layer_norm(x), memory, masks.cross, keys, None, closed)
        x, stray = x + added, stray + mass
        if not dropped:
            x = x + block.layer[2].DenseReluDense(block.layer[2].layer_norm(x))
    return body.final_layer_norm(x) * model.config.d_model**-0.5, stray


def _bias(block: Any, tokens: int) -> Tensor:
    return block.layer[0].SelfAttention.compute_bias(tokens, tokens)


def _attention(
    part: Any, x: Tensor, memory: Tensor | None, allowed: Tensor, keys: Tensor, bias: Tensor | None, closed: bool
) -> tuple[Tensor, Tensor]:
    """What attention adds, and the mass it puts where it is not `allowed`, mean over tokens and summed over heads."""
    read = x if memory is None else memory
    q, k, v = (
        rearrange(projection(state), "rows tokens (heads width) -> rows heads tokens width", heads=part.n_heads)
        for projection, state in ((part.q, x), (part.k, read), (part.v, read))
    )
    mask = allowed if closed else keys
    scores = q @ k.transpose(-1, -2)  # T5 does not scale them
    scores = (scores if bias is None else scores + bias).masked_fill(~mask, float("-inf"))
    weights = scores.float().softmax(-1).to(v.dtype)
    mass = weights.new_zeros(())
    if not closed:
        mass = (weights * (keys & ~allowed)).sum(-1).float().mean((0, 2)).sum()
    mixed = rearrange(weights @ v, "rows heads tokens width -> rows tokens (heads width)")
    return F.linear(mixed, part.o.weight), mass
