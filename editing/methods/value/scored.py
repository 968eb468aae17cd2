"""The terms of a search's loss on rows that share a forward; every mask and place is made once for a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tracer.engine.aligned import Aligned
from tracer.engine.batch import Row
from tracer.engine.partial import Suffix

from .descent import Terms
from .objective import Objective


@dataclass(frozen=True, eq=False)
class Groups:
    """Members of groups among numbers in a row.

    Attributes:
        index: [groups, most], places of the members, filled up.
        real: [groups, most], which are none of the filling.
        sizes: [groups].
    """

    index: Tensor
    real: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, members: Sequence[Sequence[int]], device: torch.device) -> Groups:
        """Groups of these places."""
        most = max(map(len, members), default=0)
        index = torch.tensor([[*own, *[0] * (most - len(own))] for own in members], dtype=torch.long, device=device)
        sizes = torch.tensor([len(own) for own in members], dtype=torch.float32, device=device)
        real = torch.arange(most, device=device) < sizes[:, None]
        return cls(index.reshape(len(members), most), real, sizes)

    def sum(self, numbers: Tensor) -> Tensor:
        """Sum of each group."""
        return torch.where(self.real, numbers[self.index], 0.0).sum(-1)

    def mean(self, numbers: Tensor) -> Tensor:
        """Mean of each group."""
        return self.sum(numbers) / self.sizes

    def all(self, flags: Tensor) -> Tensor:
        """Whether all of each group are true."""
        return (flags[self.index] | ~self.real).all(-1)


@dataclass(frozen=True, eq=False)
class Read:
    """What is read of some rows of a forward.

    Attributes:
        at: [T], places among all that is read of the forward.
        tokens: of each row.
        rows: of each request.
        count: [m], rows of each request wherever they run.
    """

    at: Tensor
    tokens: Groups
    rows: Groups
    count: Tensor

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        owners: Sequence[int],
        counts: Sequence[int],
        target: bool,
        device: torch.device,
        there: torch.device,
    ) -> Read:
        """Of the rows with a target or of those without.

        Args:
            rows: of the forward.
            owners: the request of each.
            counts: rows of each request.
            target: whether those with a target are meant.
            device: where terms are wanted.
            there: where logits are.
        """
        at: list[int] = []
        tokens: list[range] = []
        places: dict[int, list[int]] = {request: [] for request in sorted(set(owners))}
        begin = 0
        for row, owner in zip(rows, owners, strict=True):
            if bool(row.target) == target:
                places[owner].append(len(tokens))
                tokens.append(range(len(at), len(at) + len(row.read)))
                at += range(begin, begin + len(row.read))
            begin += len(row.read)
        count = torch.tensor([max(1, counts[request]) for request in places], device=device)
        index = torch.tensor(at, dtype=torch.long, device=there)
        return cls(index, Groups.of(tokens, device), Groups.of(list(places.values()), device), count)


class Scored:
    """Rows of one forward and their part in the losses of their requests.

    Args:
        suffix: the rows.
        owners: the request of each.
        counts: of each request the number of rows with a target, and of essence rows.
        device: of the vectors, where terms are wanted.
        before: log-probabilities of what is read of the essence rows as the model is; None: those of the first step.
    """

    def __init__(
        self,
        suffix: Aligned | Suffix,
        owners: Sequence[int],
        counts: Sequence[tuple[int, int]],
        device: torch.device,
        before: Tensor | None = None,
    ) -> None:
        self.suffix, self.owners, self.counts, self.device, self.before = suffix, list(owners), counts, device, before
        present = sorted(set(self.owners))
        self.requests = torch.tensor(present, device=device)  # that have rows here, m of them
        self.owner = torch.tensor(self.owners, device=device)
        there = suffix.entering.device
        self.targets = Read.of(suffix.rows, self.owners, [own for own, _ in counts], True, device, there)
        self.essence = Read.of(suffix.rows, self.owners, [own for _, own in counts], False, device, there)
        ids = [token for row in suffix.rows for token in row.target]
        self.ids = torch.tensor(ids, dtype=torch.long, device=there)

    def terms(self, deltas: Mapping[Any, Tensor], objective: Objective) -> Terms:
        """The terms [m] of the requests that have rows here.

        Args:
            deltas: by place, [rows, d].
            objective: the loss.
        """
        logp = self.suffix.logp(deltas, objective.loss_layer)
        own = self.targets
        scored, ids = logp[own.at.to(logp.device)], self.ids.to(logp.device)
        each = own.tokens.mean(scored.gather(-1, ids[:, None]).flatten().to(self.device))
        greedy = torch.ones_like(self.requests, dtype=torch.bool)
        if objective.ease != 1.0:
            greedy = own.rows.all(own.tokens.all((scored.detach().argmax(-1) == ids).to(self.device)))
        nll, p = -(own.rows.sum(each) / own.count), own.rows.sum(each.detach().exp()) / own.count
        kl, own = torch.zeros_like(p), self.essence
        if len(own.at):
            now = logp[own.at.to(logp.device)]
            if self.before is None:
                self.before = now.detach()
            apart = F.kl_div(self.before, now, log_target=True, reduction="none").sum(-1).to(self.device)
            kl = objective.kl_factor * (own.rows.sum(own.tokens.mean(apart)) / own.count)
        return Terms(nll, kl, p, greedy)

    def select(self, some: Sequence[int]) -> Scored:
        """These of the rows only."""
        before = self.before
        if before is not None:
            own = [i for i, row in enumerate(self.suffix.rows) for _ in row.read if not row.target]
            kept = [place for i in some for place, owner in enumerate(own) if owner == i]
            before = before[torch.tensor(kept, dtype=torch.long, device=before.device)]
        return Scored(self.suffix.select(some), [self.owners[i] for i in some], self.counts, self.device, before)
