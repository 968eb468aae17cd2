"""PMET: MEMIT with the value found inside the MLP, while attention is free to help (Li et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..method import Change, Group, Method
from .memit import SHARE
from .spread import SpreadSettings, default_layers, spread

if TYPE_CHECKING:
    from tracer import Model

REACH = 1.0


@dataclass(frozen=True)
class PMETSettings(SpreadSettings):
    """Hyper-parameters of PMET; see :class:`editing.settings.ValueSettings`.

    mom2_weight: as in MEMIT. nll_factor: what the target's NLL counts; a tenth of that once the target is the most
    probable, where the search ends if KL is at most kl_stop.
    """

    mom2_weight: float | None = None
    nll_factor: float = 1.0
    kl_stop: float = 0.01


def plan(model: Model, groups: Sequence[Group], settings: PMETSettings) -> list[Change]:
    """One change per group.

    Deltas of the attention's and of the MLP's output are optimised together; only the MLP's is written, and its
    residual is divided by the square root of the layers left.
    """
    settings = settings.resolved(model, default_layers(model), "mlp", REACH)
    covariance = settings.covariance
    assert covariance is not None and settings.layers is not None
    weight = SHARE * model.d_mlp if settings.mom2_weight is None else settings.mom2_weight
    solvers = {layer: covariance.solver(layer, damping=settings.damping) for layer in settings.layers}

    def closed_form(layer: int, keys: Tensor, _: Tensor) -> Tensor:
        left = solvers[layer].solve(keys) / weight
        inner = torch.eye(keys.shape[1], dtype=keys.dtype) + keys.T @ left
        return torch.linalg.solve(inner.T, left.T).T

    return spread(
        model,
        groups,
        replace(settings, mom2_weight=weight),
        closed_form,
        share=math.sqrt,
        places=("attn", "mlp"),
        nll_factor=settings.nll_factor,
        ease=0.1,
        kl_stop=settings.kl_stop,
    )


PMET = Method("pmet", PMETSettings, plan, summary="MEMIT with values inside the MLP (Li et al. 2024)")
