"""MEMIT: many facts at once, spread over several layers (Meng et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.methods.value.settings import NEEDS, Resolved, resolve
from editing.methods.value.spread import ClosedForm, SpreadSettings, default_layers, spread

from .context import EditContext
from .method import Change, Group, Method

if TYPE_CHECKING:
    from editing.covariance.solver import Solver
    from tracer.model import Model


SHARE = 0.1  # of d_mlp: the default weight


@dataclass(frozen=True)
class MEMITSettings(SpreadSettings):
    """Hyper-parameters of MEMIT; see [`editing.methods.value.settings.ValueSettings`][].

    Attributes:
        mom2_weight: weight of the old keys, given by the covariance, against the new facts (`mom2_update_weight`,
            15,000 or 20,000 as published); None: a tenth of d_mlp, with which a key of usual size (k C^-1 k = d_mlp) is
            mapped 10/11 of the way.
    """

    mom2_weight: float | None = None


def plan(model: Model, groups: Sequence[Group], given: MEMITSettings, context: EditContext) -> list[Change]:
    """One change per group: least squares on old and new keys, delta = R K^T (mom2_weight C + K K^T)^-1.

    With A = (mom2_weight C)^-1 K this is R [A (I + K^T A)^-1]^T: a system of n x n instead of d_mlp x d_mlp.
    """
    settings = resolve(model, given, default_layers(model), context)
    weight, closed_form = least_squares(model, settings)
    return spread(model, groups, settings, closed_form, measured={"mom2_weight": weight})


def least_squares(model: Model, settings: Resolved[MEMITSettings]) -> tuple[float, ClosedForm]:
    """The weight of the old keys, and MEMIT's closed form."""
    own = settings.own
    weight = SHARE * model.d_mlp if own.mom2_weight is None else own.mom2_weight
    solvers = solvers_of(model, settings)

    def closed_form(layer: int, keys: Tensor, _: Tensor) -> Tensor:
        there = keys.to(solvers[layer].factor.device)
        left = solvers[layer].solve(there) / weight
        inner = torch.eye(keys.shape[1], dtype=keys.dtype, device=there.device) + there.T @ left
        return torch.linalg.solve(inner.T, left.T).T.to(keys.device)

    return weight, closed_form


def solvers_of(model: Model, settings: Resolved[SpreadSettings]) -> dict[int, Solver]:
    """Solvers of the layers, factored before anything is searched for, so that a covariance that cannot be is told.

    Args:
        model: to be edited.
        settings: resolved.
    """
    covariance, damping = settings.covariance, settings.own.damping
    return {
        layer: covariance.solver(layer, damping, model.down_projection(layer).weight.device)
        for layer in settings.layers
    }


MEMIT = Method(
    "memit",
    MEMITSettings,
    plan,
    needs=NEEDS,
    seeded=True,
    seq2seq=True,
    summary="many facts, several layers (Meng et al. 2023)",
)
