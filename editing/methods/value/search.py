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
import torch.nn.functional as F
from torch import Tensor

from editing.methods.timing import part
from tracer.engine.aligned import Aligned, Trials
from tracer.engine.batch import Row
from tracer.engine.partial import Ability, Place, Suffix, cuts, rows_at_once
from tracer.errors import NotFinite
from tracer.progress import bar

from .objective import Objective, remaining

if TYPE_CHECKING:
    from tracer.model import Model

DECAY = 0.15  # weight decay at the clamp, where it is measured

FAR = 1e4  # in initial lengths: a longer step means that a value has no effect; usual ones are up to some lengths

LOSS = ("total", "nll", "kl", "weight_decay", "p")  # columns of a loss curve


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
    with part("search"):
        search = _Search(model, subjects, tuple(places), objective, tuple(also), max_rows, trials or Trials())
    with part("search"), bar(description, objective.v_steps) as progress:
        for step in range(objective.v_steps):
            search.step(last=step == objective.v_steps - 1)
            progress.advance(progress.task_ids[0])
            if not search.active:
                break
    return search.found()


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


class _Search:
    def __init__(
        self,
        model: Model,
        subjects: Sequence[Subject],
        places: tuple[Place, ...],
        objective: Objective,
        also: tuple[Place, ...],
        max_rows: int | None,
        trials: Trials,
    ) -> None:
        self.model, self.places, self.objective = model, places, objective
        self.active = set(range(len(subjects)))
        self.curves: list[list[Tensor]] = [[] for _ in subjects]
        owned = [
            (i, j, row)
            for i, subject in enumerate(subjects)
            for j, row in enumerate(subject.rewriting + subject.essence)
        ]
        layer = places[0][1]
        stack = model.stacks.get("encoder", range(model.n_layers))  # what leaves an encoder enters no block
        enters = all(kind == "hidden" for kind, _ in places) and layer + 1 < stack.stop
        start = layer + 1 if enters else layer
        rows = [row for _, _, row in owned]
        aligned = trials.takes(model, rows, start)
        self.run: tuple[Place, ...] = places  # where deltas are added
        last = model.n_layers - 1 if objective.loss_layer is None else objective.loss_layer
        behind = aligned and places == (("value", layer),) and layer < last  # the next block is run, and read
        if behind and trials.arrives(model, rows, layer):
            self.run, start = (("hidden", layer),), layer + 1
        if aligned:  # only the tokens from the lookup to the last one read count
            owned.sort(key=lambda item: (_reach(item[2]), len(item[2].ids)))
            spans = [Row(item[2].ids[: _reach(item[2])], 0, item[2].read) for item in owned]
        else:
            owned.sort(key=lambda item: (item[2].lookup, len(item[2].ids)))
            spans = [row for _, _, row in owned]
        ability = None if aligned else Ability.of(model, max(rows, key=lambda row: len(row.ids)))
        size = rows_at_once(model, spans, start, max_rows)
        wanted = (*places, *(place for place in also if place not in places))
        self.chunks: list[tuple[Aligned | Suffix, list[int]]] = []
        states: dict[Place, dict[tuple[int, int], Tensor]] = {place: {} for place in wanted}
        for begin, end in cuts(spans, size):
            part = owned[begin:end]
            rows = [row for _, _, row in part]
            if ability is None:
                suffix, seen = Aligned.recorded(model, rows, start, wanted)
            else:
                suffix, seen = Suffix.recorded(model, ability, rows, start, wanted)
            self.chunks.append((suffix, [i for i, _, _ in part]))
            for place, values in seen.items():
                for (i, j, _), value in zip(part, values, strict=True):
                    states[place][i, j] = value
        self.states = [
            {place: torch.stack([by[i, j] for j in range(len(subject.rewriting))]) for place, by in states.items()}
            for i, subject in enumerate(subjects)
        ]
        self.init = [torch.stack([own[place][0] for place in places]).float() for own in self.states]
        self.deltas = [torch.zeros_like(init, requires_grad=True) for init in self.init]
        self.sizes = [init.norm(dim=-1) for init in self.init]
        self.limits = [size * (objective.clamp or torch.inf) for size in self.sizes]
        # of a length, from the weight decay of a squared one
        self.decays = [(objective.v_weight_decay or 0.0) / size**2 for size in self.sizes]
        self.steps = [objective.v_lr or 0.0] * len(subjects)  # of the first update
        self.strides = [objective.stride] * len(subjects)
        self.idle: set[int] = set()  # requests whose value has no effect on the target
        self.adam = torch.optim.Adam([{"params": [delta]} for delta in self.deltas])
        self.begun = [0] * len(subjects)  # the loss a search began at, or began anew
        self.counts = [(len(subject.rewriting), len(subject.essence)) for subject in subjects]
        self.before: dict[int, Tensor] = {}  # by id of the row: the essence prompt's distribution untouched
        self.greedy = dict.fromkeys(self.active, False)  # whether every target token is the most probable one

    def step(self, last: bool) -> None:
        """One loss of every request still in the search, and one update of those that go on."""
        self._narrow()
        terms = {i: {name: torch.zeros(()) for name in ("nll", "kl", "p")} for i in self.active}
        factor = {i: self.objective.nll_factor * (self.objective.ease if self.greedy[i] else 1.0) for i in self.active}
        self.greedy.update(dict.fromkeys(self.active, True))
        self.adam.zero_grad(set_to_none=True)
        for suffix, owners in self.chunks:
            delta = torch.stack([self.deltas[i] for i in owners])  # [R, places, d]
            with torch.enable_grad():
                logp = suffix.run({place: delta[:, k] for k, place in enumerate(self.run)}, self.objective.loss_layer)
                parts = []
                for row, i, each in zip(suffix.rows, owners, logp, strict=True):
                    if i not in self.active:
                        continue
                    if row.target:
                        ids = torch.tensor(row.target, device=each.device)
                        chosen = each.gather(-1, ids[:, None])
                        loss = -chosen.mean() / self.counts[i][0]
                        terms[i]["p"] = terms[i]["p"] + chosen.detach().mean().exp().cpu() / self.counts[i][0]
                        if self.objective.ease != 1.0 and self.greedy[i]:
                            self.greedy[i] = bool((each.detach().argmax(-1) == ids).all())
                        terms[i]["nll"] = terms[i]["nll"] + loss.detach().cpu()
                        parts.append(loss * factor[i])
                    else:
                        before = self.before.setdefault(id(row), each.detach())
                        loss = F.kl_div(before, each, log_target=True, reduction="batchmean") / self.counts[i][1]
                        terms[i]["kl"] = terms[i]["kl"] + self.objective.kl_factor * loss.detach().cpu()
                        parts.append(loss * self.objective.kl_factor)
                if parts and not last:
                    torch.stack(parts).sum().backward()
        self._finish(terms, factor, last)

    def _finish(self, terms: dict[int, dict[str, Tensor]], factor: dict[int, float], last: bool) -> None:
        goal = self.objective
        for i in sorted(self.active):
            delta = self.deltas[i]
            norms = delta.detach().norm(dim=-1)
            decay = (self.decays[i] * norms).sum().cpu()
            nll, kl = terms[i]["nll"], terms[i]["kl"]
            total = nll * factor[i] + kl + decay
            if not torch.isfinite(total):
                raise NotFinite(
                    f"the loss of request {i} is no number after {len(self.curves[i])} steps; "
                    "lower v_lr, or load the model with dtype=torch.float32"
                )
            if not self.curves[i] and delta.grad is not None:
                self._measure(i, float(nll * factor[i]))
            self.curves[i].append(torch.stack([total, nll, kl, decay, terms[i]["p"]]))
            loss = nll if goal.v_weight_decay is None else total
            if i in self.idle or loss < goal.stop or (self.greedy[i] and kl <= goal.kl_stop) or last:
                self.active.discard(i)
                delta.grad = None
            elif self._stuck(i):
                self._anew(i)
            elif delta.grad is not None:
                # of the norm itself, whose gradient at zero is zero
                with torch.no_grad():
                    delta.grad += delta * (self.decays[i] / norms.clamp_min(1e-30))[:, None]
                if goal.v_lr is None:
                    self._descend(i, remaining(float(nll), goal.stop) * factor[i])
        if goal.v_lr is not None:
            self.adam.step()
        with torch.no_grad():
            for i in self.active:
                limit = self.limits[i][:, None]
                norm = self.deltas[i].norm(dim=-1, keepdim=True)
                self.deltas[i].mul_(torch.where(norm > limit, limit / norm, torch.ones_like(norm)))

    def _measure(self, i: int, loss: float) -> None:
        """Measure the open settings on the first gradient of a request, where its NLL is `loss`."""
        goal, delta = self.objective, self.deltas[i]
        assert delta.grad is not None
        step = loss / delta.grad.norm(dim=-1).clamp_min(1e-30)
        if loss > 0 and not bool((step < FAR * self.sizes[i]).any()):  # a gradient of rounding alone
            self.idle.add(i)
        if goal.clamp is None:
            self.limits[i] = goal.reach * step
        if goal.v_weight_decay is None:  # of a target that is certain already, nothing
            self.decays[i] = torch.where(self.limits[i] > 0, DECAY / self.limits[i].clamp_min(1e-30), 0.0)
        if goal.v_lr is None:
            self.steps[i] = goal.stride * loss / max(float(delta.grad.norm()), 1e-30)
        else:
            self.adam.param_groups[i]["lr"] = goal.v_lr

    def _descend(self, i: int, distance: float) -> None:
        """One update down the gradient, by the step that is measured on it: so much of the NLL is to go."""
        delta = self.deltas[i]
        assert delta.grad is not None
        slope = max(float(delta.grad.norm()), 1e-30)
        longest = self.steps[i] * self.strides[i] / self.objective.stride
        with torch.no_grad():
            delta -= delta.grad * (min(self.strides[i] * distance / slope, longest) / slope)

    def _stuck(self, i: int) -> bool:
        patience = self.objective.patience
        if patience is None or len(self.curves[i]) - self.begun[i] <= patience:
            return False
        nll = [float(point[1]) for point in self.curves[i][-patience - 1 :]]
        return nll[-1] > 0.98 * nll[0] and float(self.curves[i][-1][-1]) < 0.5

    def _anew(self, i: int) -> None:
        delta = self.deltas[i]
        delta.grad = None
        with torch.no_grad():
            delta.zero_()
        self.adam.state.pop(delta, None)
        self.adam.param_groups[i]["lr"] /= 3
        self.strides[i] /= 3
        self.begun[i] = len(self.curves[i])

    def _narrow(self) -> None:
        """Leave out rows whose request has ended, once they are a quarter of a forward."""
        chunks = []
        for suffix, owners in self.chunks:
            going = [place for place, i in enumerate(owners) if i in self.active]
            if len(going) < 0.75 * len(owners):
                if not going:
                    continue
                suffix, owners = suffix.select(going), [owners[place] for place in going]
            chunks.append((suffix, owners))
        self.chunks = chunks

    def found(self) -> list[Optimised]:
        """The present vectors of each request."""
        parts = zip(self.deltas, self.init, self.states, self.curves, self.limits, self.steps, strict=True)
        return [
            Optimised(
                delta.detach().cpu(), init.cpu(), states, torch.stack(curve).double(), limit.cpu(), step, i in self.idle
            )
            for i, (delta, init, states, curve, limit, step) in enumerate(parts)
        ]
