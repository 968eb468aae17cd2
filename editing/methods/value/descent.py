"""The way down of many requests at once: losses, steps, ends and new beginnings, all decided where the vectors lie.

Every request has its own loss, its own steps and its own end, kept as masks over the requests, so that nothing has to
be copied to the host to decide on a step. A request that has ended keeps the vectors of its last step, however many
more steps the others take.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .objective import Objective, remaining

DECAY = 0.15  # weight decay at the clamp, where it is measured
FAR = 1e4  # in initial lengths: a longer step means that a value has no effect; usual ones are up to some lengths
LOSS = ("total", "nll", "kl", "weight_decay", "p")  # columns of a loss curve
EVERY = 4  # steps after which a device is asked which requests go on; a processor can be asked after every one
BETAS, EPSILON = (0.9, 0.999), 1e-8  # of Adam, as usual
LEAST = 1e-30  # length of a gradient


@dataclass(frozen=True, eq=False)
class Terms:
    """What a step measured on n requests, each [n].

    Attributes:
        nll: of the target, per token, mean over its rows.
        kl: of the essence rows, times its factor.
        p: probability of the target (geometric mean over its tokens, mean over rows).
        greedy: whether every target token is the most probable one.
    """

    nll: Tensor
    kl: Tensor
    p: Tensor
    greedy: Tensor

    @classmethod
    def none(cls, n: int, device: torch.device) -> Terms:
        """Those of n requests, to be filled in."""
        nll, kl, p = torch.zeros(3, n, device=device)
        return cls(nll, kl, p, torch.ones(n, dtype=torch.bool, device=device))


class Descent:
    """Vectors of n requests, P of d numbers each.

    Args:
        init: [n, P, d], the states they are added to.
        objective: the loss.

    Attributes:
        deltas: [n, P, d].
        active: [n], which are still searched for.
        idle: [n], whose vectors have no effect on the target.
        limits: [n, P], the longest vectors.
        steps: [n], length of the first update; with a v_lr given, that rate.
        curves: [v_steps, n, 5].
        ends: [n], length of each curve.
    """

    def __init__(self, init: Tensor, objective: Objective) -> None:
        n, device = len(init), init.device
        self.objective = objective
        self.wide = torch.float32 if device.type == "mps" else torch.float64  # of what a step's length is computed in
        self.deltas = torch.zeros_like(init, requires_grad=True)
        self.active, self.broken, self.idle, self.greedy = torch.zeros(4, n, dtype=torch.bool, device=device)
        self.active |= True
        self.sizes = init.norm(dim=-1)
        self.limits = self.sizes * (objective.clamp or torch.inf)
        self.decays = (objective.v_weight_decay or 0.0) / self.sizes**2  # of a length, from that of a squared one
        self.steps = self._full(objective.v_lr or 0.0)
        self.rates, self.strides = self._full(objective.v_lr or 0.0), self._full(objective.stride)
        self.begun, self.ends = torch.zeros(2, n, dtype=torch.long, device=device)  # points of the curve before
        self.curves = torch.full((objective.v_steps, n, len(LOSS)), torch.nan, device=device)
        self._first, self._second = torch.zeros_like(init), torch.zeros_like(init)  # Adam's moments
        self._counts = self._full(0.0)  # and its updates

    def _full(self, value: float) -> Tensor:
        return torch.full((len(self.sizes),), value, dtype=self.wide, device=self.sizes.device)

    def factor(self) -> Tensor:
        """What the NLL counts in this step, [n]."""
        eased = torch.where(self.greedy, self.objective.ease, 1.0)
        return self.objective.nll_factor * eased

    @torch.no_grad()
    def step(self, place: int, found: Terms, last: bool) -> None:
        """Take down the losses of a step, end the requests that are there, and update those that go on.

        Args:
            place: number of the step, from 0.
            found: the terms of the loss; `deltas.grad` is their gradient, unless it is the last step.
            last: end all of them.
        """
        goal, factor, grad = self.objective, self.factor(), self.deltas.grad
        norms = self.deltas.norm(dim=-1)
        decay = (self.decays * norms).sum(-1)
        total = found.nll * factor + found.kl + decay
        if place == 0 and grad is not None:
            self._measure(found.nll * factor, grad)
        self.broken |= self.active & ~torch.isfinite(total)
        point = torch.stack([total, found.nll, found.kl, decay, found.p], dim=-1)
        self.curves[place] = torch.where(self.active[:, None], point, self.curves[place])
        self.ends = torch.where(self.active, place + 1, self.ends)
        self.greedy = found.greedy
        loss = found.nll if goal.v_weight_decay is None else total
        ended = self.idle | (loss < goal.stop) | (found.greedy & (found.kl <= goal.kl_stop)) | self.broken
        self.active = torch.zeros_like(ended) if last else self.active & ~ended
        if grad is not None and not last:
            self._update(place, grad, norms, found.nll, factor)

    def _update(self, place: int, grad: Tensor, norms: Tensor, nll: Tensor, factor: Tensor) -> None:
        stuck = self._stuck(place)
        moving = (self.active & ~stuck)[:, None, None]
        # of the norm itself, whose gradient at zero is zero
        grad = grad + self.deltas * (self.decays / norms.clamp_min(LEAST))[..., None]
        if self.objective.v_lr is None:
            distance = remaining(nll.to(self.wide), self.objective.stop) * factor
            self.deltas.copy_(torch.where(moving, self._descended(grad, distance), self.deltas))
        else:
            self._adam(grad, moving)
        self._anew(stuck, place)
        norm, limit = self.deltas.norm(dim=-1, keepdim=True), self.limits[..., None]
        held = self.deltas * torch.where(norm > limit, limit / norm, torch.ones_like(norm))
        self.deltas.copy_(torch.where(self.active[:, None, None], held, self.deltas))

    def _measure(self, loss: Tensor, grad: Tensor) -> None:
        """Measure the open settings on the first gradient of each request, where its NLL is `loss`."""
        goal = self.objective
        step = loss[:, None] / grad.norm(dim=-1).clamp_min(LEAST)
        self.idle = (loss > 0) & ~(step < FAR * self.sizes).any(-1)  # a gradient of rounding alone
        if goal.clamp is None:
            self.limits = goal.reach * step
        if goal.v_weight_decay is None:  # of a target that is certain already, nothing
            self.decays = torch.where(self.limits > 0, DECAY / self.limits.clamp_min(LEAST), 0.0)
        if goal.v_lr is None:
            self.steps = goal.stride * loss.to(self.wide) / self._slope(grad)

    def _slope(self, grad: Tensor) -> Tensor:
        return grad.flatten(1).norm(dim=1).to(self.wide).clamp_min(LEAST)

    def _descended(self, grad: Tensor, distance: Tensor) -> Tensor:
        """Vectors down the gradient, by the step that is measured on it: so much of the NLL is to go."""
        slope = self._slope(grad)
        longest = self.steps * self.strides / self.objective.stride
        length = torch.minimum(self.strides * distance / slope, longest) / slope
        return self.deltas - grad * length.to(grad.dtype)[:, None, None]

    def _adam(self, grad: Tensor, moving: Tensor) -> None:
        """One step of Adam (Kingma and Ba 2015) for the requests that move, each with its own count of steps."""
        one, two = BETAS
        self._counts += moving.flatten()
        self._first = torch.where(moving, self._first.lerp(grad, 1 - one), self._first)
        self._second = torch.where(moving, self._second * two + grad * grad * (1 - two), self._second)
        counts = self._counts.clamp_min(1)
        rates = (self.rates / (1 - one**counts)).to(grad.dtype)[:, None, None]
        scale = (1 - two**counts).sqrt().to(grad.dtype)[:, None, None]
        new = self.deltas - rates * (self._first / (self._second.sqrt() / scale + EPSILON))
        self.deltas.copy_(torch.where(moving, new, self.deltas))

    def _stuck(self, place: int) -> Tensor:
        """Which have made no progress for as long as the search has patience."""
        patience = self.objective.patience
        if patience is None or place < patience:
            return torch.zeros_like(self.active)
        before, now = self.curves[place - patience, :, 1], self.curves[place, :, 1]
        waited = place + 1 - self.begun > patience
        still = now.to(self.wide) > 0.98 * before.to(self.wide)
        return self.active & waited & still & (self.curves[place, :, -1] < 0.5)

    def _anew(self, stuck: Tensor, place: int) -> None:
        vectors = stuck[:, None, None]
        for kept in (self.deltas, self._first, self._second):
            kept.masked_fill_(vectors, 0.0)
        self._counts.masked_fill_(stuck, 0.0)
        self.rates = torch.where(stuck, self.rates / 3, self.rates)
        self.strides = torch.where(stuck, self.strides / 3, self.strides)
        self.begun = torch.where(stuck, place + 1, self.begun)

    def due(self, place: int) -> bool:
        """Whether to look after a step which requests go on."""
        return self.deltas.device.type == "cpu" or (place + 1) % EVERY == 0
