"""ROME (Meng et al. 2022), one fact as a rank-one change of one layer, and R-ROME (Gupta et al. 2024).

The key k* is the mean over contexts of the down-projection's input at the last subject token; the value is the present
output plus an optimised delta; the change is the one that maps k* to it while changing least, in the sense of the
covariance C, the outputs of other keys: W + u v^T with u = C^-1 k* / |C^-1 k*| and v = (value - W k) / (k . u). In ROME
k is the key of the bare prompt, as in the published code. R-ROME has the mean key there too, which keeps long runs of
edits from breaking the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.edits.weights import applied
from editing.methods.value.search import Optimised, loss_curves, measures, optimise
from editing.methods.value.settings import NEEDS, Resolved, ValueSettings, recalling, resolve, subject_of
from editing.request import EditRequest

from .context import EditContext
from .method import Change, Group, Method
from .timing import part

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True)
class ROMESettings(ValueSettings):
    """Hyper-parameters of ROME; see [`editing.methods.value.settings.ValueSettings`][].

    With several layers each is written on top of those before it.

    Attributes:
        mom2_adjustment: False leaves C out (u = k* / |k*|).
        mean_key: the mean key in the denominator too (R-ROME).
    """

    mom2_adjustment: bool = True
    mean_key: bool = False

    @property
    def weighs_old_keys(self) -> bool:
        """Whether the covariance is used."""
        return self.mom2_adjustment


@dataclass(frozen=True)
class RROMESettings(ROMESettings):
    """Hyper-parameters of R-ROME; see `ROMESettings`."""

    mean_key: bool = True


def default_layer(model: Model) -> int:
    """The default layer: at a tenth of the depth, and not below the third.

    Chosen on SmolLM2 135M, of 30 layers, among 2, 3 and 5: edits at a later one spill over to more neighbours. On Gemma
    3 270M, of 18, layer 3 does so too, and layer 1 writes less well (`benchmarks/edit_rules.py`).
    """
    depth = len(recalling(model))
    return min(max(2, round(depth / 10)), max(0, depth - 2))


def plan(model: Model, groups: Sequence[Group], given: ROMESettings, context: EditContext) -> list[Change]:
    """One change per group.

    The values of all groups are optimised together on the model as it is. Requests of one group are written one after
    the other: each request's output is taken with those before it written (to re-optimise each value on the model
    edited so far, make one edit per request).
    """
    settings = resolve(model, given, (default_layer(model),), context)
    factors: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in groups]
    evidence: list[dict[str, Tensor]] = [{} for _ in groups]
    for depth, layer in enumerate(settings.layers):
        if depth == 0:
            every = _values(model, [request for group in groups for request in group], layer, settings)
            parts = iter(every)
            found = [[next(parts) for _ in group] for group in groups]
        else:  # on top of the layers before
            found = []
            for group, own in zip(groups, factors, strict=True):
                with applied(model, own):
                    found.append(_values(model, group, layer, settings))
        down = model.down_projection(layer)
        end = f".{layer}" if len(settings.layers) > 1 else ""
        for own, kept, values in zip(factors, evidence, found, strict=True):
            with part("solve"):
                left, right, seen = _written(values, layer, settings)
            own[down.name] = down.factors(left, right)
            kept.update({f"{name}{end}": value for name, value in seen.items()})
    return [Change(own, settings.as_json(), kept, settings.note) for own, kept in zip(factors, evidence, strict=True)]


def _values(
    model: Model, requests: Sequence[EditRequest], layer: int, settings: Resolved[ROMESettings]
) -> list[Optimised]:
    subjects = [subject_of(model, request, settings.own, settings.templates) for request in requests]
    return optimise(
        model,
        subjects,
        [("value", layer)],
        settings.objective(),
        also=[("key", layer)],
        max_rows=settings.context.max_rows,
        description=f"values at layer {layer}",
        trials=settings.context.measured.trials,
    )


def _written(
    values: Sequence[Optimised], layer: int, settings: Resolved[ROMESettings]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Factors u [d_mlp, n] and v [d_model, n] that write `values` at `layer` one after the other, with evidence."""
    first = values[0].states["key", layer]
    keys = torch.stack([value.states["key", layer].double().mean(0) for value in values], dim=1).cpu()  # [d_mlp, n]
    if settings.own.mom2_adjustment:
        left = settings.covariance.solver(layer, settings.own.damping, first.device).solve(keys)
    else:
        left = keys
    left = left / left.norm(dim=0)
    right = torch.zeros(values[0].init.shape[-1], len(values), dtype=torch.float64)
    inputs, outputs = [], []
    for i, value in enumerate(values):
        own, there = value.states["key", layer].double().cpu(), value.states["value", layer].double().cpu()
        key, output = (own.mean(0), there.mean(0)) if settings.own.mean_key else (own[0], there[0])
        output = output + right[:, :i] @ (left[:, :i].T @ key)
        target = (value.init[0] + value.delta[0]).double()
        if not value.idle:  # nothing was found to be written, and the mean over contexts is no bare prompt's value
            right[:, i] = (target - output) / (key @ left[:, i])
        inputs.append(key)
        outputs.append(output)
    seen = {
        "k_star": keys.T,
        "cur_input": torch.stack(inputs),
        "cur_output": torch.stack(outputs),
        "target_init": torch.stack([value.init[0] for value in values]),
        "delta": torch.stack([value.delta[0] for value in values]),
        "loss": loss_curves(values),
        **measures(values),
    }
    return left.float(), right.float(), {name: value.float().contiguous() for name, value in seen.items()}


ROME = Method(
    "rome",
    ROMESettings,
    plan,
    needs=NEEDS,
    layers="one",
    seeded=True,
    seq2seq=True,
    summary="rank-one, one layer (Meng et al. 2022)",
)
R_ROME = replace(
    ROME, name="r_rome", settings=RROMESettings, summary="ROME with the mean key throughout (Gupta et al. 2024)"
)
