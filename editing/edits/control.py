"""The control of a change of weights: one of the same size in a random direction."""

from __future__ import annotations

import torch
from torch import Tensor

from .weights import Factors
from .whole import Deltas, random_like

RANK = 8  # a random matrix of higher rank is no harder a control


def random_direction(
    factors: Factors, deltas: Deltas, norms: dict[str, float], seed: int
) -> tuple[Factors, dict[str, Tensor]]:
    """Changes of the same weights, of the same Frobenius norms and, up to rank 8, of the same ranks.

    Args:
        factors: of the change.
        deltas: changes of whole tensors.
        norms: of the change of each weight.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (u, v) in factors.items():
        rank = min(u.shape[1], RANK)
        left = torch.randn(len(u), rank, generator=generator)
        right = torch.randn(len(v), rank, generator=generator)
        # ||L R^T||^2 = tr (L^T L)(R^T R)
        size = float(((left.double().T @ left.double()) * (right.double().T @ right.double())).sum().sqrt())
        found[name] = (left * (norms[name] / size), right)
    return found, random_like(deltas, norms, generator)
