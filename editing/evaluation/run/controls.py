"""Controls of an edit: the same size in a random direction, the same method at random layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from editing.edits.edit import Edit
from tracer.errors import EvaluationOptionError


def random_direction(edit: Edit, seed: int) -> Edit:
    """An edit of the same weights, with changes of the same Frobenius norms in random directions.

    Of the same rank up to rank 8, and of rank 8 above (a random matrix of higher rank is no harder a control).

    Args:
        edit: the edit.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (u, v) in edit.factors.items():
        rank, norm = min(u.shape[1], 8), edit.norm()[name]
        left = torch.randn(len(u), rank, generator=generator)
        right = torch.randn(len(v), rank, generator=generator)
        # ||L R^T||^2 = tr (L^T L)(R^T R)
        size = float(((left.double().T @ left.double()) * (right.double().T @ right.double())).sum().sqrt())
        factors[name] = (left * (norm / size), right)
    return replace(edit, factors=factors, evidence={}, note="a random direction")


def random_layers(n_layers: int, layers: Sequence[int], seed: int) -> tuple[int, ...]:
    """As many neighbouring layers as `layers`, at another place of the model.

    Args:
        n_layers: of the model.
        layers: of the edit.
        seed: of the draw.

    Raises:
        TracerError: there is no such place.
    """
    count = len(layers)
    starts = [start for start in range(n_layers - count + 1) if set(range(start, start + count)) != set(layers)]
    if not starts:
        raise EvaluationOptionError(f"a model of {n_layers} layers has no other place for {count} of them")
    start = starts[int(torch.randint(len(starts), (), generator=torch.Generator().manual_seed(seed)))]
    return tuple(range(start, start + count))
