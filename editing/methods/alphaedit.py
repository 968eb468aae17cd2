"""AlphaEdit: MEMIT's spreading, confined to directions that other keys hardly use (Fang et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.methods.value.settings import NEEDS, resolve
from editing.methods.value.spread import SpreadSettings, default_layers, spread
from tracer.errors import SingularCovariance

from .context import EditContext
from .method import Change, Group, Method

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True)
class AlphaEditSettings(SpreadSettings):
    """Hyper-parameters of AlphaEdit; see [`editing.methods.value.settings.ValueSettings`][].

    Attributes:
        nullspace_threshold: eigenvectors of C whose eigenvalue is below it are free to be written to (published: 2e-2
            for every model, whatever the scale of its keys); None: as many of the smallest as together hold
            `nullspace_share` of the trace.
        nullspace_share: share of the trace of C in the free space, where no threshold is given.
        ridge: weight of the change's norm (`L2`), as a share of the new keys' mean squared length in the free space.
        ridge_absolute: the same as a number, as published.
    """

    nullspace_threshold: float | None = None
    nullspace_share: float = 0.05
    ridge: float = 0.03
    ridge_absolute: float | None = None


def plan(model: Model, groups: Sequence[Group], given: AlphaEditSettings, context: EditContext) -> list[Change]:
    """One change per group: delta^T = (P (K K^T + E E^T) + ridge I)^-1 P K R^T, with keys E of earlier edits.

    With F = [E, K] and its part in the free space PF this is the last columns of PF (F^T PF + ridge I)^-1 R^T.
    """
    settings = resolve(model, given, default_layers(model), context)
    free = {}
    for layer in settings.layers:
        spectrum = settings.covariance.spectrum(layer, model.down_projection(layer).weight.device)
        free[layer] = free_space(*spectrum, given, layer)

    def closed_form(layer: int, keys: Tensor, rounds: Tensor) -> Tensor:
        name = f"keys.{layer}"
        before = [edit.evidence[name].double() for edit in context.earlier if edit.evidence and name in edit.evidence]
        every = torch.cat([*before, rounds, keys], dim=1).to(free[layer].device)
        inside = free[layer] @ (free[layer].T @ every)  # P F
        inner = every.T @ inside
        ridge = given.ridge_absolute
        if ridge is None:
            ridge = given.ridge * float(inner.diagonal()[-keys.shape[1] :].mean())
        inner = inner + ridge * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
        # (A B + r I)^-1 A = A (B A + r I)^-1 with A = P F and B = F^T
        return torch.linalg.solve(inner.T, inside.T).T[:, -keys.shape[1] :].to(keys.device)

    return spread(model, groups, settings, closed_form, measured={"earlier": len(context.earlier)})


def free_space(values: Tensor, vectors: Tensor, settings: AlphaEditSettings, layer: int) -> Tensor:
    """Eigenvectors [d_mlp, k] of the second moment that hold little of it; P is their outer product.

    Args:
        values: eigenvalues, ascending.
        vectors: eigenvectors.
        settings: with the threshold or share.
        layer: named in messages.

    Raises:
        TracerError: no eigenvector is small enough.
    """
    if settings.nullspace_threshold is not None:
        small = values < settings.nullspace_threshold
    else:
        small = values.clamp_min(0).cumsum(0) <= settings.nullspace_share * values.clamp_min(0).sum()
    if not small.any():
        raise SingularCovariance(
            f"no direction of layer {layer} is free: the smallest eigenvalue of the covariance is "
            f"{float(values[0]):.3g}; raise nullspace_threshold or nullspace_share"
        )
    return vectors[:, small]


ALPHAEDIT = Method(
    "alphaedit",
    AlphaEditSettings,
    plan,
    needs=frozenset({*NEEDS, "earlier"}),
    seeded=True,
    seq2seq=True,
    summary="MEMIT in the null space of other keys (Fang et al. 2025)",
)
