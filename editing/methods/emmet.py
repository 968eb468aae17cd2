"""EMMET: MEMIT's spreading with ROME's equality constraint, for batches (Gupta et al. 2024, "A unified framework")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracer import TracerError

from ..method import Change, Group, Method
from .spread import REACH, SpreadSettings, default_layers, spread

if TYPE_CHECKING:
    from tracer import Model


@dataclass(frozen=True)
class EMMETSettings(SpreadSettings):
    """Hyper-parameters of EMMET; see :class:`editing.settings.ValueSettings`.

    emmet_lambda: added to the diagonal of K^T (mom2_weight C)^-1 K, as a share of that diagonal's mean: keys that
    nearly coincide cannot be mapped to values that differ. mom2_weight scales C, which by itself changes nothing here.
    """

    emmet_lambda: float = 0.03
    mom2_weight: float = 1.0


def plan(model: Model, groups: Sequence[Group], settings: EMMETSettings) -> list[Change]:
    """One change per group: every new key mapped exactly, delta = R (K^T C^-1 K)^-1 K^T C^-1."""
    settings = settings.resolved(model, default_layers(model), "hidden", REACH)
    covariance = settings.covariance
    assert covariance is not None and settings.layers is not None
    solvers = {layer: covariance.solver(layer, damping=settings.damping) for layer in settings.layers}

    def closed_form(layer: int, keys: Tensor, _: Tensor) -> Tensor:
        left = solvers[layer].solve(keys) / settings.mom2_weight
        inner = keys.T @ left
        inner = inner + settings.emmet_lambda * inner.diagonal().mean() * torch.eye(len(inner), dtype=inner.dtype)
        try:
            return torch.linalg.solve(inner.T, left.T).T
        except RuntimeError as error:
            raise TracerError(
                f"keys of different requests coincide at layer {layer}, so that no change maps them apart; "
                "leave one of them out, or set emmet_lambda above zero"
            ) from error

    return spread(model, groups, settings, closed_form)


EMMET = Method("emmet", EMMETSettings, plan, summary="MEMIT with equality constraints (Gupta et al. 2024)")
