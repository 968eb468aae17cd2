"""The change that MALMEN makes of the factors of many edits (Tan et al. 2024, "Massive Editing via Meta Learning")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.methods.training import read_logits
from tracer.engine.batch import Row

from .changes import Changes
from .factors import PREDICTING, Read, kept, token_factors
from .lowrank import LowRank
from .nets import Nets
from .places import Place
from .whitening import Whitening

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Malmen:
    """A trained (or untrained) editor: least squares on what the net wants of every token that it reads.

    Token t is to move its output by D_t = -rate (x_t . x~_t) delta~_t, and the change (X^T X + ridge C)^-1 X^T D comes
    as near as it can at all of them; with C = I as published, or the second moments of inputs at kept facts, so that
    what these have in common is left alone.

    Attributes:
        nets: what makes x~ and delta~ of x and delta, the signed rates, and the logarithms of the ridges.
        block: requests whose loss is taken together, as the mean over all their target tokens. Part of the editor,
            since it decides the size of every delta.
        moving: statistics take in the tokens of every edit first, block by block, as published.
        tokens: one of `TOKENS`.
    """

    nets: Nets
    block: int = 1
    moving: bool = False
    tokens: str = PREDICTING

    @property
    def places(self) -> tuple[Place, ...]:
        """The matrices."""
        return self.nets.places

    def changes(
        self, model: Model, groups: Sequence[Sequence[Row]], max_rows: int | None = None, read: Read = read_logits
    ) -> Changes:
        """One change of every matrix per group; blocks of a group are cut with its longest rows first.

        Args:
            model: to be edited.
            groups: requests as rows.
            max_rows: as of `token_factors`.
            read: likewise.
        """
        rows, owners, blocks = [], [], []
        for number, group in enumerate(groups):
            for place, row in enumerate(sorted(group, key=lambda row: -len(row.ids))):
                blocks.append((blocks[-1] if blocks else -1) + (place % self.block == 0))
                rows.append(row)
                owners.append(number)
        found = token_factors(model, rows, self.places, blocks, max_rows=max_rows, read=read)
        some = {place.key: kept(found.factors[place.key], rows, self.tokens) for place in self.places}
        nets = self.nets
        block = torch.tensor(blocks, device=found.nll.device)
        for number in range(blocks[-1] + 1) if self.moving else ():
            for place in self.places:
                own = some[place.key].where(block[some[place.key].row] == number)
                nets = nets.seeing(place, own.x, own.delta, published=True)
        owner = torch.tensor(owners, device=found.nll.device)
        low, told = {}, {}
        for i, place in enumerate(self.places):
            own = some[place.key]
            x, delta = nets.made_of(place, own.x, own.delta)
            size = -nets.parameters["rate"][i] * (own.x * x).sum(1, keepdim=True)
            wanted = LowRank.of(own.x, size * delta, group := owner[own.row], len(groups))
            ridge = nets.parameters["log_ridge"][i].exp()
            low[place.key] = LowRank(solved(wanted.u, ridge, nets.whitening.get(place.key)), wanted.v)
            told[place.key] = {"group": group, "x": own.x, "delta": own.delta, "x_made": x, "delta_made": delta}
            told[place.key]["wanted"] = size * delta
        return Changes(low, told, found.nll, nets.statistics)


def solved(x: Tensor, ridge: Tensor, whitening: Whitening | None = None) -> Tensor:
    """X (X^T X + ridge C)^-1 by group, in double precision: (X C^-1 X^T + ridge I)^-1 X C^-1, which is n x n.

    Args:
        x: [groups, n, in].
        ridge: above zero.
        whitening: C; None: C = I.
    """
    exact = x.double()
    white = exact if whitening is None else whitening.applied(exact)
    gram = exact @ white.transpose(1, 2) + ridge.double() * torch.eye(x.shape[1], dtype=torch.float64, device=x.device)
    return torch.linalg.solve(gram, white).to(x.dtype)
