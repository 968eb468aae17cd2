"""Search for the values that make facts true: vectors added at the subject, optimised for many requests together.

Meng et al. 2022 (ROME, section 3.1, step 2) and 2023 (MEMIT, section 4.3.1) find, for one request at a time, the vector
that makes the new target probable while "{subject} is a" keeps its continuation. Every request has its own loss, its
own steps and its own end, so that running many in one batch gives the same vectors as running each alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.methods.timing import part
from tracer.engine.aligned import Aligned, Trials
from tracer.engine.batch import Row
from tracer.engine.partial import Ability, Place, Suffix, cuts, rows_at_once
from tracer.engine.row_budget import fitting
from tracer.errors import NotFinite
from tracer.progress import bar

from .descent import LOSS, Descent, Terms
from .objective import Objective
from .scored import Scored

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Subject:
    """Rows of one request.

    Attributes:
        rewriting: rows that are to end in the target, the bare prompt first.
        essence: rows whose next token is to stay.
    """

    rewriting: tuple[Row, ...]
    essence: tuple[Row, ...]


@dataclass(frozen=True, eq=False)
class Optimised:
    """Found vectors of one request.

    Attributes:
        delta: [places, d], to be added at the lookup.
        init: [places, d], the state at the lookup of the bare prompt.
        states: at the lookup of every rewriting row, [rows, width] by further place asked for.
        loss: [iterations, 5]: total, NLL, KL, weight decay, probability of the target (geometric mean over its tokens,
            mean over contexts).
        limit: [places], the longest delta.
        step: length of the first update; with a v_lr given, that rate.
        idle: whether the value has no effect on the target, so that nothing was searched for.
    """

    delta: Tensor
    init: Tensor
    states: dict[Place, Tensor]
    loss: Tensor
    limit: Tensor
    step: float
    idle: bool


def optimise(
    model: Model,
    subjects: Sequence[Subject],
    places: Sequence[Place],
    objective: Objective,
    *,
    also: Sequence[Place] = (),
    max_rows: int | None = None,
    description: str = "values",
    trials: Trials | None = None,
) -> list[Optimised]:
    """The vectors of each request, at the places (of one layer) together.

    Call it with gradients of parameters off (`tracer.engine.hooks.frozen`).

    Args:
        model: the model.
        subjects: rows of each request.
        places: of the vectors.
        objective: the loss.
        also: further places whose states are returned.
        max_rows: rows run at once; None: by memory.
        description: of the progress bar.
        trials: what is known of the model's ways; None: nothing.

    Raises:
        TracerError: a loss that is not a number.
    """
    plan = _Plan(model, subjects, tuple(places), objective, trials or Trials())

    def searched(most: int) -> list[Optimised]:
        search = _Search(plan, tuple(also), most)
        with bar(description, objective.v_steps) as progress:
            for step in range(objective.v_steps):
                search.step(step)
                progress.advance(progress.task_ids[0])
                if not search.active:
                    break
        return search.found()

    with part("search"):
        size = rows_at_once(model, plan.spans, plan.start, max_rows)
        return fitting(searched, min(size, len(plan.spans)))


def loss_curves(values: Sequence[Optimised]) -> Tensor:
    """Loss curves [n, iterations, 5] of several requests; nan after the end of each."""
    length = max(len(value.loss) for value in values)
    curves = torch.full((len(values), length, len(LOSS)), torch.nan, dtype=torch.float64)
    for curve, value in zip(curves, values, strict=True):
        curve[: len(value.loss)] = value.loss
    return curves


def measures(values: Sequence[Optimised]) -> dict[str, Tensor]:
    """Measured bounds of the search of each request.

    Returns:
        "clamp" [n], the longest delta in lengths of the initial state (of the last place); "step" [n], the length of
            the first update (or the v_lr given); and "idle" [n], whether there was nothing to search for.
    """
    clamps = torch.stack([(value.limit / value.init.norm(dim=-1))[-1] for value in values])
    steps = torch.tensor([value.step for value in values])
    return {"clamp": clamps, "step": steps, "idle": torch.tensor([float(value.idle) for value in values])}


def _reach(row: Row) -> int:
    """Tokens from a row's lookup to the last one that is read."""
    return max(row.read) + 1 - min(row.lookup, *row.read)


class _Plan:
    """The rows of a search in the order they are run in, and the way they are run."""

    def __init__(
        self,
        model: Model,
        subjects: Sequence[Subject],
        places: tuple[Place, ...],
        objective: Objective,
        trials: Trials,
    ) -> None:
        self.model, self.subjects, self.places, self.objective = model, subjects, places, objective
        owned = [
            (i, j, row)
            for i, subject in enumerate(subjects)
            for j, row in enumerate(subject.rewriting + subject.essence)
        ]
        layer = places[0][1]
        stack = model.stacks.get("encoder", range(model.n_layers))  # what leaves an encoder enters no block
        enters = all(kind == "hidden" for kind, _ in places) and layer + 1 < stack.stop
        self.start = layer + 1 if enters else layer
        rows = [row for _, _, row in owned]
        aligned = trials.takes(model, rows, self.start)
        self.run: tuple[Place, ...] = places  # where deltas are added
        last = model.n_layers - 1 if objective.loss_layer is None else objective.loss_layer
        behind = aligned and places == (("value", layer),) and layer < last  # the next block is run, and read
        if behind and trials.arrives(model, rows, layer):
            self.run, self.start = (("hidden", layer),), layer + 1
        if aligned:  # only the tokens from the lookup to the last one read count
            owned.sort(key=lambda item: (_reach(item[2]), len(item[2].ids)))
            self.spans = [Row(item[2].ids[: _reach(item[2])], 0, item[2].read) for item in owned]
        else:
            owned.sort(key=lambda item: (item[2].lookup, len(item[2].ids)))
            self.spans = [row for _, _, row in owned]
        self.owned = owned
        self.ability = None if aligned else Ability.of(model, max(rows, key=lambda row: len(row.ids)))


class _Search:
    def __init__(self, plan: _Plan, also: tuple[Place, ...], size: int) -> None:
        model, subjects, places, ability = plan.model, plan.subjects, plan.places, plan.ability
        self.run, self.objective = plan.run, plan.objective
        self.active = set(range(len(subjects)))
        wanted = (*places, *(place for place in also if place not in places))
        self.chunks: list[Scored] = []
        counts = [(len(subject.rewriting), len(subject.essence)) for subject in subjects]
        states: dict[Place, dict[tuple[int, int], Tensor]] = {place: {} for place in wanted}
        for begin, end in cuts(plan.spans, size):
            part = plan.owned[begin:end]
            rows = [row for _, _, row in part]
            if ability is None:
                suffix, seen = Aligned.recorded(model, rows, plan.start, wanted)
            else:
                suffix, seen = Suffix.recorded(model, ability, rows, plan.start, wanted)
            self.chunks.append(Scored(suffix, [i for i, _, _ in part], counts, seen[places[0]].device))
            for place, values in seen.items():
                for (i, j, _), value in zip(part, values, strict=True):
                    states[place][i, j] = value
        self.states = [
            {place: torch.stack([by[i, j] for j in range(len(subject.rewriting))]) for place, by in states.items()}
            for i, subject in enumerate(subjects)
        ]
        self.init = torch.stack([torch.stack([own[place][0] for place in places]).float() for own in self.states])
        self.descent = Descent(self.init, plan.objective)

    def step(self, place: int) -> None:
        """One loss of every request still in the search, and one update of those that go on."""
        last = place == self.objective.v_steps - 1
        descent, factor = self.descent, self.descent.factor()
        terms = Terms.none(len(self.init), self.init.device)
        descent.deltas.grad = None
        for chunk in self.chunks:
            own = chunk.requests
            with torch.enable_grad():
                delta = descent.deltas[chunk.owner]  # [R, places, d]
                found = chunk.terms({place: delta[:, k] for k, place in enumerate(self.run)}, self.objective)
                if not last:
                    (found.nll * factor[own] + found.kl).sum().backward()
            terms.nll[own] += found.nll.detach()
            terms.kl[own] += found.kl.detach()
            terms.p[own] += found.p
            terms.greedy[own] &= found.greedy
        descent.step(place, terms, last)
        if last or descent.due(place):
            self._look()

    def _look(self) -> None:
        """Ask which requests go on; leave out rows of others, once they are a quarter of a forward."""
        own = self.descent
        going, broken, ends = torch.stack([own.active.long(), own.broken.long(), own.ends]).tolist()
        if any(broken):
            i = min((end, i) for i, (end, bad) in enumerate(zip(ends, broken, strict=True)) if bad)[1]
            raise NotFinite(
                f"the loss of request {i} is no number after {ends[i] - 1} steps; "
                "lower v_lr, or load the model with dtype=torch.float32"
            )
        self.active = {i for i, goes in enumerate(going) if goes}
        chunks = []
        for chunk in self.chunks:
            some = [place for place, i in enumerate(chunk.owners) if i in self.active]
            if some:
                chunks.append(chunk.select(some) if len(some) < 0.75 * len(chunk.owners) else chunk)
        self.chunks = chunks

    def found(self) -> list[Optimised]:
        """The present vectors of each request."""
        own = self.descent
        curves, ends = own.curves.double().cpu().unbind(1), own.ends.tolist()
        rows = (own.deltas.detach().cpu(), self.init.cpu(), self.states, own.limits.cpu(), own.steps.tolist())
        parts = zip(*rows, own.idle.tolist(), curves, ends, strict=True)
        return [
            Optimised(delta.clone(), init, states, curve[:end].clone(), limit, step, idle)
            for delta, init, states, limit, step, idle, curve, end in parts
        ]
