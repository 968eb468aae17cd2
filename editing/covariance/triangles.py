"""Symmetric matrices as their upper triangles."""

from __future__ import annotations

import torch
from torch import Tensor


def add_upper(total: Tensor, keys: Tensor) -> None:
    """Add K^T K to the upper triangle of `total` [d, d], for `keys` K [n, d]; entries below the diagonal are undefined.

    Blocks below the diagonal are left out, which spares nearly half of the work.
    """
    step = max(128, -(-len(total) // 8))
    for start in range(0, len(total), step):
        total[start : start + step, start:].addmm_(keys[:, start : start + step].T, keys[:, start:])


def pack(matrix: Tensor) -> Tensor:
    """The upper triangle of [d, d] row by row, [d (d + 1) / 2]."""
    return torch.cat([row[i:] for i, row in enumerate(matrix)])


def unpack(packed: Tensor) -> Tensor:
    """The symmetric matrix [d, d] of an upper triangle [d (d + 1) / 2]."""
    width = width_of(packed)
    matrix = packed.new_zeros(width, width)
    start = 0
    for i in range(width):
        matrix[i, i:] = packed[start : start + width - i]
        start += width - i
    return mirror(matrix)


def mirror(upper: Tensor) -> Tensor:
    """The symmetric matrix [d, d] whose upper triangle is that of `upper`."""
    upper = upper.triu()
    return upper + upper.triu(1).mT


def width_of(packed: Tensor) -> int:
    """Width d of an upper triangle [d (d + 1) / 2]."""
    width = int((2 * packed.numel()) ** 0.5)
    if packed.dim() != 1 or width * (width + 1) // 2 != packed.numel():
        raise ValueError(f"{list(packed.shape)} numbers are no upper triangle")
    return width
