"""Trained heads behind features: one for what is known, one for what is asked (Chen et al. 2024, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SIDES = ("knowledge", "query")


def head(tensors: Mapping[str, Tensor], side: str, x: Tensor) -> Tensor:
    """The sum r + ReLU(W2 r + b2) of r = W1 x + b1; x itself where there is no head of this side.

    Args:
        tensors: "<side>.linear.weight" [width, d], "<side>.linear.bias", "<side>.branch.weight", "<side>.branch.bias".
        side: one of `SIDES`.
        x: [n, d].
    """
    if f"{side}.linear.weight" not in tensors:
        return x
    weight, bias, inner, shift = (
        tensors[f"{side}.{name}"].to(x) for name in ("linear.weight", "linear.bias", "branch.weight", "branch.bias")
    )
    linear = torch.nn.functional.linear(x, weight, bias)
    return linear + torch.nn.functional.linear(linear, inner, shift).relu()
