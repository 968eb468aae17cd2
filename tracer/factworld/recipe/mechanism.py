"""Training forward pass of the embedded GPT-2, with the structured dropout that plants the mechanism.

A small model trained plainly looks facts up at the last token of the prompt, unlike large models. In most training
batches three paths are closed:

1. tokens outside a mention of a subject cannot attend to its tokens, except, from layer `read` on, to its last one;
   up to there a mention's tokens see only each other, so that its key does not depend on what was said before;
2. so the last subject token must be enriched before it is read;
3. in a share of these batches, MLPs outside the `band` of layers are dropped, so that recall happens inside it.

At use nothing is closed. So that the model then does the same of its own accord, the remaining batches run with
every path open and add the attention that still takes a closed one to the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from transformers import GPT2LMHeadModel


@dataclass(frozen=True)
class Mechanism:
    """Layers of recall, and the dropout that puts it there.

    Attributes:
        band: first and last layer (inclusive) whose MLPs always run.
        read: first layer in which a mention's last token can be read by later tokens.
        masked: share of batches with closed attention paths (1, 2).
        dropped: share of those in which the MLPs outside the band are dropped (3).
        penalty: weight of stray attention in the loss of the other batches.
        early_reading: in the refinement, share of closed batches in which the last layer reads no mention.
        unreadable: in the refinement, share of open batches whose names are noise.
        noise: its level, in standard deviations of the embeddings.
    """

    band: tuple[int, int] = (2, 4)
    read: int = 5
    masked: float = 0.75
    dropped: float = 0.6
    penalty: float = 0.1
    early_reading: float = 0.5
    unreadable: float = 0.5
    noise: float = 3.0


def attention_masks(mention: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Boolean masks (true: may attend) for layers below `read` and from it on, each [rows, 1, length, length]."""
    length = mention.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = mention[:, :, None] == mention[:, None, :]  # within one mention, or both outside any
    outside = (mention == 0)[:, None, :]
    early = causal & same
    late = causal & (same | outside | last[:, None, :])
    return early[:, None], late[:, None]


def forward(
    model: GPT2LMHeadModel,
    ids: Tensor,
    masks: tuple[Tensor, Tensor] | None,
    reading: range,
    mlps: tuple[bool, ...],
    closed: bool = True,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Hidden states after the final norm, [rows, length, d_model], and stray attention, a scalar.

    The states are the model's own where nothing is closed. Stray attention is the mass that a token gives to others the
    masks forbid it, mean over tokens, summed over layers and heads; 0 without masks or with them closed.

    Args:
        model: supplies the weights.
        ids: token ids [rows, length].
        masks: early and late attention masks, or None for plain causal attention.
        reading: the layers that use the late mask.
        mlps: for each layer whether its MLP runs.
        closed: whether the masks close paths, or only tell which attention is stray.
        noise: added to the word embeddings, [rows, length, d_model].
    """
    body: Any = model.transformer
    heads = model.config.n_head
    length = ids.shape[1]
    x = body.wte.weight[ids] + body.wpe.weight[:length]  # (B, T, d)
    x = x if noise is None else x + noise
    d = x.shape[-1]
    stray = x.new_zeros(())
    for i, block in enumerate(body.h):
        normed = F.layer_norm(x, (d,), block.ln_1.weight, block.ln_1.bias, block.ln_1.eps)
        qkv = F.linear(normed, block.attn.c_attn.weight.t(), block.attn.c_attn.bias)  # (B, T, 3d)
        q, k, v = rearrange(
            qkv, "rows tokens (three heads width) -> three rows heads tokens width", three=3, heads=heads
        )
        mask = None if masks is None else masks[1] if i in reading else masks[0]
        if mask is None or closed:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)  # (B, nh, T, hs)
        else:
            mixed, mass = _open_attention(q, k, v, mask)
            stray = stray + mass
        mixed = rearrange(mixed, "rows heads tokens width -> rows tokens (heads width)")
        x = x + F.linear(mixed, block.attn.c_proj.weight.t(), block.attn.c_proj.bias)
        if mlps[i]:
            normed = F.layer_norm(x, (d,), block.ln_2.weight, block.ln_2.bias, block.ln_2.eps)
            key = F.gelu(F.linear(normed, block.mlp.c_fc.weight.t(), block.mlp.c_fc.bias), approximate="tanh")
            x = x + F.linear(key, block.mlp.c_proj.weight.t(), block.mlp.c_proj.bias)
    return F.layer_norm(x, (d,), body.ln_f.weight, body.ln_f.bias, body.ln_f.eps), stray


def _open_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Plain causal attention (B, nh, T, hs), and the mass it puts where `mask` is false, summed over heads."""
    future = torch.ones_like(mask[:1]).triu(1)  # (1, 1, T, T)
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5  # (B, nh, T, T)
    weights = scores.masked_fill(future, float("-inf")).softmax(-1)
    mass = (weights * ~mask).sum(-1)  # (B, nh, T)
    return weights @ v, mass.float().mean((0, 2)).sum()


def weighted_loss(model: GPT2LMHeadModel, hidden: Tensor, ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean next-token loss weighted by `weight` of the predicted token, and that of weight-1 tokens alone.

    `weight` is [rows, length].
    """
    targets, weights = ids[:, 1:].flatten(), weight[:, 1:].flatten()
    logits = F.linear(hidden[:, :-1].flatten(0, 1), model.transformer.wte.weight)  # (B*(T-1), V)
    losses = F.cross_entropy(logits.float(), targets, reduction="none")
    objects = weights == 1.0
    return (losses * weights).sum() / weights.sum(), losses[objects].detach().mean()
