"""What MEMIT and its relatives share: one target state per fact, and its residual spread over several layers.

Meng et al. 2023 (MEMIT, algorithm 1): at the last of the layers a state z is found for every fact. Then the layers are
written from first to last: with keys K [d_mlp, n] and what is still missing of the targets R [d, n], divided by the
layers left, each method has its own closed form for the change of the weight.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracer.hooks import Add, Site, capture, intervene
from tracer.progress import track

from ..method import Change, Group
from ..optimise import Optimised, loss_curves, optimise
from ..request import EditRequest
from ..rows import Row, rewriting_rows, states_at_lookups
from ..settings import ValueSettings, subject_of
from ..weights import applied

if TYPE_CHECKING:
    from tracer import Model

REACH = 0.75  # default clamp of a hidden state, as published

# (layer, keys [d_mlp, n], residuals [d, n]) -> adjusted keys A [d_mlp, n]: the change is A R^T in [d_mlp, d] form
ClosedForm = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SpreadSettings(ValueSettings):
    """Hyper-parameters of a method that spreads residuals; see :class:`editing.settings.ValueSettings`."""

    template_lengths: Sequence[tuple[int, int]] = ((10, 5),)


def default_layers(model: Model) -> tuple[int, ...]:
    """Layers up to about half of the depth: three of eight, five of thirty-two or more."""
    last = round(model.n_layers / 2)
    count = min(5, max(1, round(3 * model.n_layers / 8)))
    return tuple(range(max(0, last - count + 1), last + 1))


def state_kind(model: Model) -> str:
    """Where target states are: "hidden", as published; "mlp" if the MLP's output is not simply added to the state.

    Behind a norm (Gemma 2, OLMo 2) a change of the hidden state is no change of the MLP's output that one could write.
    """
    layer, ids = default_layers(model)[-1], [1, 2, 3]
    site, delta = Site("hidden", layer), torch.ones(model.d_model, dtype=model.dtype)
    with torch.no_grad():
        before = capture(model, ids, [site])[site]
        with intervene(model, [Add(Site("mlp", layer), delta)]):
            moved = (capture(model, ids, [site])[site] - before).float()
    return "hidden" if float((moved - 1).abs().max()) < 0.1 else "mlp"


def spread(
    model: Model,
    groups: Sequence[Group],
    settings: SpreadSettings,
    closed_form: ClosedForm,
    *,
    share: Callable[[int], float] = float,
    places: Sequence[str] = ("hidden",),
    **objective: float,
) -> list[Change]:
    """One change per group: target states of all groups found together, then each group written layer by layer.

    settings: resolved. share: by how much the residual is divided when that many layers are left. places: kinds of the
    states that are optimised together at the last layer; the residual is that of the last of them.
    """
    assert settings.layers is not None
    last = settings.layers[-1]
    subjects = [subject_of(model, request, settings) for group in groups for request in group]
    values = optimise(
        model,
        subjects,
        [(kind, last) for kind in places],
        settings.objective(**objective),
        max_rows=settings.max_rows,
        description=f"target states at layer {last}",
    )
    found = iter(values)
    changes = []
    for group in track(groups, "groups", len(groups)):
        own = [next(found) for _ in group]
        changes.append(_written(model, group, own, settings, closed_form, share, places[-1]))
    return changes


def _written(
    model: Model,
    group: Group,
    values: Sequence[Optimised],
    settings: SpreadSettings,
    closed_form: ClosedForm,
    share: Callable[[int], float],
    kind: str,
) -> Change:
    assert settings.layers is not None
    last = settings.layers[-1]
    rows = [_bare_rows(model, request, settings) for request in group]
    bare = [own[0] for own in rows]
    target = torch.stack([(value.init[-1] + value.delta[-1]).double() for value in values], dim=1)  # [d, n]
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    evidence: dict[str, Tensor] = {}
    for place, layer in enumerate(settings.layers):
        with applied(model, factors):
            keys = mean_keys(model, rows, layer, settings)  # [d_mlp, n]
            there = states_at_lookups(model, bare, [(kind, last)], max_rows=settings.max_rows)[kind, last]
        residual = (target - there.double().cpu().T) / share(len(settings.layers) - place)
        adjusted = closed_form(layer, keys, residual)
        down = model.down_projection(layer)
        left, right = adjusted.float().contiguous(), residual.float().contiguous()
        factors[down.name] = (left, right) if down.orientation == "in_out" else (right, left)
        evidence[f"keys.{layer}"] = keys.float()
        evidence[f"residual.{layer}"] = right
    evidence["zs"] = target.float()
    evidence["target_init"] = torch.stack([value.init[-1] for value in values])
    evidence["delta"] = torch.stack([value.delta[-1] for value in values])
    evidence["loss"] = loss_curves(values).float()
    return Change(factors, settings.as_json(), evidence, settings.note)


def _bare_rows(model: Model, request: EditRequest, settings: SpreadSettings) -> list[Row]:
    return rewriting_rows(model, request, settings.templates(), settings.fact_token)


def mean_keys(model: Model, rows: Sequence[Sequence[Row]], layer: int, settings: SpreadSettings) -> Tensor:
    """Keys [d_mlp, n] of requests: means over the kinds of templates of the mean within a kind; float64."""
    flat = [row for own in rows for row in own]
    states = states_at_lookups(model, flat, [("key", layer)], max_rows=settings.max_rows)["key", layer]
    sizes = [len(kind) for kind in settings.templates()]
    each = states.double().cpu().split(sum(sizes))
    return torch.stack([torch.stack([part.mean(0) for part in own.split(sizes)]).mean(0) for own in each], dim=1)
