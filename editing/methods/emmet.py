"""EMMET: MEMIT's spreading with ROME's equality constraint, for batches (Gupta et al. 2024, "A unified framework")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.methods.value.settings import NEEDS, resolve
from editing.methods.value.spread import SpreadSettings, default_layers, spread
from tracer.errors import ContradictingRequests

from .context import EditContext
from .memit import solvers_of
from .method import Change, Group, Method

if TYPE_CHECKING:
    from tracer.model import Model


SHARE = 0.03  # of the diagonal's mean: the default of emmet_lambda


@dataclass(frozen=True)
class EMMETSettings(SpreadSettings):
    """Hyper-parameters of EMMET; see [`editing.methods.value.settings.ValueSettings`][].

    Attributes:
        emmet_lambda: added to the diagonal of K^T (mom2_weight C)^-1 K where there are several keys, since those that
            nearly coincide cannot be mapped to values that differ; None: 3 % of that diagonal's mean. One key alone is
            mapped exactly, without it, as ROME does and as published.
        mom2_weight: scales C, which only changes the meaning of emmet_lambda.
    """

    emmet_lambda: float | None = None
    mom2_weight: float = 1.0


def plan(model: Model, groups: Sequence[Group], given: EMMETSettings, context: EditContext) -> list[Change]:
    """One change per group: every new key mapped exactly, delta = R (K^T C^-1 K)^-1 K^T C^-1."""
    settings = resolve(model, given, default_layers(model), context)
    solvers = solvers_of(model, settings)

    def closed_form(layer: int, keys: Tensor, _: Tensor) -> Tensor:
        there = keys.to(solvers[layer].factor.device)
        left = solvers[layer].solve(there) / given.mom2_weight
        inner = there.T @ left
        if len(inner) > 1:
            extra = SHARE * float(inner.diagonal().mean()) if given.emmet_lambda is None else given.emmet_lambda
            inner = inner + extra * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        try:
            return torch.linalg.solve(inner.T, left.T).T.to(keys.device)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise ContradictingRequests(
                f"keys of different requests coincide at layer {layer}, so that no change maps them apart; "
                "leave one of them out, or set emmet_lambda above zero"
            ) from error

    return spread(model, groups, settings, closed_form)


EMMET = Method(
    "emmet",
    EMMETSettings,
    plan,
    needs=NEEDS,
    seeded=True,
    seq2seq=True,
    summary="MEMIT with equality constraints (Gupta et al. 2024)",
)
