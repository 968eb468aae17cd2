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

from editing.edits.weights import applied
from editing.methods.method import Change, Group
from editing.methods.timing import part
from editing.request import EditRequest
from tracer.engine.arriving import Arrival, behind_norm
from tracer.engine.batch import Row, states_at_lookups
from tracer.progress import track

from .prompts import rewriting_rows
from .search import Optimised, loss_curves, measures, optimise
from .settings import ValueSettings, subject_of

if TYPE_CHECKING:
    from tracer.model import Model

# (layer, keys [d_mlp, n], residuals [d, n]) -> adjusted keys A [d_mlp, n]: the change is A R^T in [d_mlp, d] form
ClosedForm = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SpreadSettings(ValueSettings):
    """Hyper-parameters of a method that spreads residuals; see
    :class:`editing.methods.value.settings.ValueSettings`."""


def default_layers(model: Model) -> tuple[int, ...]:
    """Three layers, the last at a tenth of the depth and not below the fourth.

    Chosen on SmolLM2 135M, of 30 layers: a layer later they take more neighbours along. On Gemma 3 270M, of 18, edits
    a layer earlier write less well (``benchmarks/edit_rules.py``).
    """
    last = min(max(3, round(model.n_layers / 10)), max(0, model.n_layers - 2))
    return tuple(range(max(0, last - 2), last + 1))


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
    states that are optimised together at the last layer; the residual is that of the last of them. Behind a norm the
    MLP's value is optimised in its stead, since a free change of the residual stream is none that one could write.
    """
    assert settings.layers is not None
    last = settings.layers[-1]
    free = "value" if behind_norm(model, last) else places[-1]
    subjects = [subject_of(model, request, settings) for group in groups for request in group]
    values = optimise(
        model,
        subjects,
        [*((kind, last) for kind in places[:-1]), (free, last)],
        settings.objective(**objective),
        also=[(places[-1], last)],
        max_rows=settings.max_rows,
        description=f"target states at layer {last}",
    )
    found = iter(values)
    changes = []
    for group in track(groups, "groups", len(groups)):
        own = [next(found) for _ in group]
        with part("solve"):
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
    arrivals = {layer: Arrival.of(model, layer) for layer in settings.layers}
    rows = [_bare_rows(model, request, settings) for request in group]
    bare = [own[0] for own in rows]
    start = torch.stack([value.states[kind, last][0].double().cpu() for value in values], dim=1)  # [d, n]
    target = start + torch.stack([_moved(value, arrivals[last]) for value in values], dim=1)
    factors: dict[str, tuple[Tensor, Tensor]] = {}
    evidence: dict[str, Tensor] = {}
    for place, layer in enumerate(settings.layers):
        with applied(model, factors):
            keys = mean_keys(model, rows, layer, settings)  # [d_mlp, n]
            there = states_at_lookups(model, bare, [(kind, last), ("value", layer)], max_rows=settings.max_rows)
        missing = (target - there[kind, last].double().cpu().T) / share(len(settings.layers) - place)
        value = there["value", layer].double().cpu()
        residual = (arrivals[layer].values(value, missing.T) - value).T
        adjusted = closed_form(layer, keys, residual)
        down = model.down_projection(layer)
        left, right = adjusted.float().contiguous(), residual.float().contiguous()
        factors[down.name] = (left, right) if down.orientation == "in_out" else (right, left)
        evidence[f"keys.{layer}"] = keys.float()
        evidence[f"residual.{layer}"] = right
    evidence["zs"] = target.float()
    evidence["target_init"] = start.T.float().contiguous()
    evidence["delta"] = torch.stack([value.delta[-1] for value in values])
    evidence["loss"] = loss_curves(values).float()
    evidence |= measures(values)
    return Change(factors, settings.as_json(), evidence, settings.note)


def _moved(value: Optimised, arrival: Arrival) -> Tensor:
    """How far an optimised state moves the residual stream, [d], float64."""
    init, delta = value.init[-1].double(), value.delta[-1].double()
    if arrival.gain is None:
        return delta  # of a state of the residual stream itself
    return arrival.contribution(init + delta) - arrival.contribution(init)


def _bare_rows(model: Model, request: EditRequest, settings: SpreadSettings) -> list[Row]:
    return rewriting_rows(model, request, settings.templates(), settings.fact_token)


def mean_keys(model: Model, rows: Sequence[Sequence[Row]], layer: int, settings: SpreadSettings) -> Tensor:
    """Keys [d_mlp, n] of requests: means over the kinds of templates of the mean within a kind; float64."""
    flat = [row for own in rows for row in own]
    states = states_at_lookups(model, flat, [("key", layer)], max_rows=settings.max_rows)["key", layer]
    sizes = [len(kind) for kind in settings.templates()]
    each = states.double().cpu().split(sum(sizes))
    return torch.stack([torch.stack([part.mean(0) for part in own.split(sizes)]).mean(0) for own in each], dim=1)
