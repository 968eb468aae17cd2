"""Keys whitened by their second moments C, so that a change leaves alone what keys have in common, as ROME's do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracer.errors import HyperparameterError

from .places import Place

if TYPE_CHECKING:
    from editing.covariance.covariance import Covariance, Solver

Solvers = Mapping[str, "Solver"]


def solvers_of(measure: Callable[[list[int]], Covariance], places: Sequence[Place], wanted: bool = True) -> Solvers:
    """Solvers of C by key of the place.

    Args:
        measure: gives a covariance with some layers.
        places: down-projections.
        wanted: False: there are none, and nothing is measured.
    """
    if not wanted:
        return {}
    covariance = measure(sorted({place.layer for place in places}))
    return {place.key: covariance.solver(place.layer) for place in places}


def whitened(rows: Tensor, solver: Solver | None) -> Tensor:
    """Rows times C^-1, in double precision and in the graph; as they are without a solver.

    Args:
        rows: [..., in].
        solver: of C [in, in].
    """
    if solver is None:
        return rows
    factor = solver.factor.to(rows.device)
    return torch.cholesky_solve(rows.double().flatten(0, -2).T, factor).T.reshape(rows.shape)


def size(solver: Solver) -> float:
    """Mean square of a key: of the diagonal of C.

    Args:
        solver: of C.
    """
    return float(solver.factor.square().sum() / len(solver.factor))


def check_whitened(projections: Sequence[str] | None) -> None:
    """Pass if the covariance of keys is one of all these matrices.

    Args:
        projections: names.

    Raises:
        TracerError: one of them is no down-projection.
    """
    if tuple(projections or ()) != ("down",):
        raise HyperparameterError(
            f"whitened takes the second moments of keys, and projections are {projections!r}; edit ('down',) alone, or "
            "set whitened=False"
        )
