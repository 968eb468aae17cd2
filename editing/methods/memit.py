"""MEMIT: many facts at once, spread over several layers (Meng et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from editing.methods.value.spread import ClosedForm, SpreadSettings, default_layers, spread

from .method import Change, Group, Method

if TYPE_CHECKING:
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


Weighted = TypeVar("Weighted", bound=MEMITSettings)


def plan(model: Model, groups: Sequence[Group], settings: MEMITSettings) -> list[Change]:
    """One change per group: least squares on old and new keys, delta = R K^T (mom2_weight C + K K^T)^-1.

    With A = (mom2_weight C)^-1 K this is R [A (I + K^T A)^-1]^T: a system of n x n instead of d_mlp x d_mlp.
    """
    settings = settings.resolved(model, default_layers(model))
    settings, closed_form = least_squares(model, settings)
    return spread(model, groups, settings, closed_form)


def least_squares(model: Model, settings: Weighted) -> tuple[Weighted, ClosedForm]:
    """MEMIT's closed form, and the settings with their weight."""
    covariance = settings.covariance
    assert covariance is not None and settings.layers is not None
    weight = SHARE * model.d_mlp if settings.mom2_weight is None else settings.mom2_weight
    solvers = {layer: covariance.solver(layer, damping=settings.damping) for layer in settings.layers}

    def closed_form(layer: int, keys: Tensor, _: Tensor) -> Tensor:
        left = solvers[layer].solve(keys) / weight
        inner = torch.eye(keys.shape[1], dtype=keys.dtype) + keys.T @ left
        return torch.linalg.solve(inner.T, left.T).T

    return replace(settings, mom2_weight=weight), closed_form


MEMIT = Method("memit", MEMITSettings, plan, summary="many facts, several layers (Meng et al. 2023)")
