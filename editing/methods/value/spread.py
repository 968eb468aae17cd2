"""Common part of MEMIT and its relatives: one target state per fact, and its residual spread over several layers.

Meng et al. 2023 (MEMIT, algorithm 1): at the last of the layers a state z is found for every fact. Then the layers are
written from first to last: with keys K [d_mlp, n] and the remaining residuals of the targets R [d, n], divided by the
layers left, each method has its own closed form for the change of the weight.

One key holds one value, so that two facts about one subject, each with a value of its own, cannot be solved for at
once. They are written in turn: the first of each subject together, and the next ones on the model that has these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.edits.weights import applied
from editing.methods.method import Change, Group
from editing.methods.timing import part
from editing.request import EditRequest
from tracer.engine.arriving import Arrival, behind_norm
from tracer.engine.batch import Row, states_at_lookups
from tracer.errors import HyperparameterError
from tracer.progress import track
from tracer.text import plain

from .prompts import rewriting_rows
from .search import Optimised, Subject, loss_curves, measures, optimise
from .settings import Resolved, ValueSettings, recalling, subject_of

if TYPE_CHECKING:
    from tracer.model import Model

# (layer, keys [d_mlp, n], other subjects' keys of the rounds before [d_mlp, m]) -> adjusted keys A [d_mlp, n]: the
# change is A R^T in [d_mlp, d] form, with the residuals R [d, n]
ClosedForm = Callable[[int, Tensor, Tensor], Tensor]
SHARED = ("subject_last", "subject_first")  # edited tokens at which prompts about one subject have nearly the same key


@dataclass(frozen=True)
class SpreadSettings(ValueSettings):
    """Hyper-parameters of a method that spreads residuals; see [`editing.methods.value.settings.ValueSettings`][].

    Attributes:
        same_key: handling of several requests about one subject, whose keys are nearly the same. "in_turn": the first
            of each subject are written together, then, on the model that has these, the second ones, and so on; each
            value is searched for with those before it in place, so that their effect stays. "together": each value as
            if it were alone, and all written at once, as published, which may reach neither.
    """

    same_key: str = "in_turn"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.same_key not in ("in_turn", "together"):
            raise HyperparameterError(f"same_key is {self.same_key!r}; expected 'in_turn' or 'together'")

    def rounds(self, group: Group) -> list[list[int]]:
        """Places of the requests that are written together, round by round.

        Args:
            group: the requests.
        """
        if self.same_key == "together" or self.fact_token not in SHARED:
            return [list(range(len(group)))]
        found: list[list[int]] = []
        earlier: Counter[str] = Counter()
        for place, request in enumerate(group):
            turn = earlier[plain(request.subject)]
            earlier[plain(request.subject)] += 1
            found += [[]] * (turn == len(found))
            found[turn] = [*found[turn], place]
        return found


def default_layers(model: Model) -> tuple[int, ...]:
    """The default layers: three, the last at a tenth of the depth and not below the fourth.

    Chosen on SmolLM2 135M, of 30 layers: edits a layer later spill over to more neighbours. On Gemma 3 270M, of 18,
    edits a layer earlier write less well (`benchmarks/edit_rules.py`).
    """
    depth = len(recalling(model))
    last = min(max(3, round(depth / 10)), max(0, depth - 2))
    return tuple(range(max(0, last - 2), last + 1))


def spread(
    model: Model,
    groups: Sequence[Group],
    settings: Resolved[SpreadSettings],
    closed_form: ClosedForm,
    *,
    measured: Mapping[str, Any] | None = None,
    share: Callable[[int], float] = float,
    places: Sequence[str] = ("hidden",),
    **objective: float,
) -> list[Change]:
    """One change per group: target states of all groups found together, then each group written layer by layer.

    Args:
        model: to be edited.
        groups: requests of each edit.
        settings: resolved.
        closed_form: of the method.
        measured: settings of the edit in place of those left open.
        share: divisor of the residual when that many layers are left.
        places: kinds of the states that are optimised together at the last layer; the residual is that of the last of
            them. Behind a norm the MLP's value is optimised in its stead, since a free change of the residual stream
            could not be written.
        objective: other fields of the loss.
    """
    last = settings.layers[-1]
    free = "value" if behind_norm(model, last) else places[-1]

    def search(requests: Group, written: Group = ()) -> list[Optimised]:
        return optimise(
            model,
            [_subject(model, request, written, settings) for request in requests],
            [*((kind, last) for kind in places[:-1]), (free, last)],
            settings.objective(**objective),
            also=[(places[-1], last)],
            max_rows=settings.context.max_rows,
            description=f"target states at layer {last}",
            trials=settings.context.measured.trials,
        )

    turns = [settings.own.rounds(group) for group in groups]
    found = iter(search([group[place] for group, own in zip(groups, turns, strict=True) for place in own[0]]))
    changes = []
    for group, own in track(list(zip(groups, turns, strict=True)), "groups", len(groups)):
        rounds: list[_Round] = []
        with ExitStack() as stack:
            for some in own:
                requests = [group[place] for place in some]
                if rounds:
                    stack.enter_context(applied(model, rounds[-1].factors(model)))
                earlier = [group[place] for turn in own[: len(rounds)] for place in turn]
                values = search(requests, earlier) if rounds else [next(found) for _ in some]
                with part("solve"):
                    rounds.append(_written(model, requests, values, settings, closed_form, share, places[-1], rounds))
        changes.append(_change(model, own, rounds, settings, measured or {}))
    return changes


@dataclass(frozen=True, eq=False)
class _Round:
    """Requests written together, n of them: by layer keys and adjusted keys [d_mlp, n] and residuals [d, n]."""

    requests: Group
    values: Sequence[Optimised]
    start: Tensor
    target: Tensor
    keys: dict[int, Tensor]
    adjusted: dict[int, Tensor]
    residuals: dict[int, Tensor]

    def apart_from(self, group: Group) -> list[int]:
        """Places of the requests about other subjects than those of `group`."""
        subjects = {plain(request.subject) for request in group}
        return [place for place, request in enumerate(self.requests) if plain(request.subject) not in subjects]

    def factors(self, model: Model) -> dict[str, tuple[Tensor, Tensor]]:
        """The change of every weight."""
        found = {}
        for layer, adjusted in self.adjusted.items():
            down = model.down_projection(layer)
            left, right = (side.float().contiguous() for side in (adjusted, self.residuals[layer]))
            found[down.name] = down.factors(left, right)
        return found

    @classmethod
    def joined(cls, rounds: Sequence[_Round], places: Sequence[int]) -> _Round:
        """All rounds as one whose requests, which were written in the order of `places`, are in their own order."""
        order = sorted(range(len(places)), key=places.__getitem__)

        def cat(parts: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(parts), dim=1)[:, order]

        requests = [request for one in rounds for request in one.requests]
        values = [value for one in rounds for value in one.values]
        return cls(
            [requests[place] for place in order],
            [values[place] for place in order],
            cat([one.start for one in rounds]),
            cat([one.target for one in rounds]),
            *(
                {layer: cat([getattr(one, name)[layer] for one in rounds]) for layer in rounds[0].keys}
                for name in ("keys", "adjusted", "residuals")
            ),
        )


def _written(
    model: Model,
    group: Group,
    values: Sequence[Optimised],
    settings: Resolved[SpreadSettings],
    closed_form: ClosedForm,
    share: Callable[[int], float],
    kind: str,
    earlier: Sequence[_Round],
) -> _Round:
    last = settings.layers[-1]
    arrivals = {layer: Arrival.of(model, layer) for layer in settings.layers}
    rows = [_bare_rows(model, request, settings) for request in group]
    bare = [own[0] for own in rows]
    start = torch.stack([value.states[kind, last][0].double().cpu() for value in values], dim=1)  # [d, n]
    target = start + torch.stack([_moved(value, arrivals[last]) for value in values], dim=1)
    found = _Round(group, values, start, target, {}, {}, {})
    for place, layer in enumerate(settings.layers):
        with applied(model, found.factors(model)):
            keys = mean_keys(model, rows, layer, settings)  # [d_mlp, n]
            there = states_at_lookups(model, bare, [(kind, last), ("value", layer)], max_rows=settings.context.max_rows)
        missing = (target - there[kind, last].double().cpu().T) / share(len(settings.layers) - place)
        value = there["value", layer].double().cpu()
        found.keys[layer] = keys
        others = [one.keys[layer][:, one.apart_from(group)] for one in earlier]
        found.adjusted[layer] = closed_form(layer, keys, torch.cat([keys[:, :0], *others], dim=1))
        found.residuals[layer] = (arrivals[layer].values(value, missing.T) - value).T
    return found


def _change(
    model: Model,
    turns: Sequence[Sequence[int]],
    rounds: Sequence[_Round],
    settings: Resolved[SpreadSettings],
    measured: Mapping[str, Any],
) -> Change:
    whole = _Round.joined(rounds, [place for some in turns for place in some])
    evidence: dict[str, Tensor] = {}
    for layer in whole.keys:
        evidence[f"keys.{layer}"] = whole.keys[layer].float()
        evidence[f"residual.{layer}"] = whole.residuals[layer].float().contiguous()
    evidence["zs"] = whole.target.float()
    evidence["target_init"] = whole.start.T.float().contiguous()
    evidence["delta"] = torch.stack([value.delta[-1] for value in whole.values])
    evidence["loss"] = loss_curves(whole.values).float()
    evidence |= measures(whole.values)
    notes = [settings.note]
    if len(turns) > 1:
        evidence["round"] = torch.tensor([i for _, i in sorted((p, i) for i, some in enumerate(turns) for p in some)])
        notes.append(f"requests about one subject were written one after the other, in {len(turns)} rounds")
    return Change(whole.factors(model), settings.as_json(**measured), evidence, "; ".join(filter(None, notes)))


def _moved(value: Optimised, arrival: Arrival) -> Tensor:
    """Change of the residual stream by an optimised state, [d], float64."""
    init, delta = value.init[-1].double(), value.delta[-1].double()
    if arrival.gain is None:
        return delta  # of a state of the residual stream itself
    return arrival.contribution(init + delta) - arrival.contribution(init)


def _subject(model: Model, request: EditRequest, written: Group, settings: Resolved[SpreadSettings]) -> Subject:
    """A request's rows, and those of earlier requests about its subject: one value has to serve them all."""
    own = subject_of(model, request, settings.own, settings.templates)
    beside = [one for one in written if plain(one.subject) == plain(request.subject)]
    kept = [row for one in beside for row in _bare_rows(model, one, settings)]
    return replace(own, rewriting=(*own.rewriting, *kept))


def _bare_rows(model: Model, request: EditRequest, settings: Resolved[SpreadSettings]) -> list[Row]:
    return rewriting_rows(model, request, settings.templates, settings.own.fact_token)


def mean_keys(model: Model, rows: Sequence[Sequence[Row]], layer: int, settings: Resolved[SpreadSettings]) -> Tensor:
    """Keys [d_mlp, n] of requests: means over the kinds of templates of the mean within a kind; float64.

    Args:
        model: the model.
        rows: of each request.
        layer: of the keys.
        settings: with the templates.
    """
    flat = [row for own in rows for row in own]
    states = states_at_lookups(model, flat, [("key", layer)], max_rows=settings.context.max_rows)["key", layer]
    sizes = [len(kind) for kind in settings.templates]
    each = states.double().cpu().split(sum(sizes))
    return torch.stack([torch.stack([part.mean(0) for part in own.split(sizes)]).mean(0) for own in each], dim=1)
