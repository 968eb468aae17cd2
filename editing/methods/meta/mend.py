"""The change that MEND makes of an edit's factors (Mitchell et al. 2022, "Fast Model Editing at Scale")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from editing.methods.training import read_logits
from tracer.engine.batch import Row

from .changes import Changes
from .factors import ALL, Read, kept, token_factors
from .lowrank import LowRank
from .nets import Nets
from .places import Place

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Mend:
    """A trained (or untrained) editor: W <- W + rate * sum over tokens of x~ delta~^T.

    Where inputs are whitened, C^-1 (spread * x~) stands in the place of x~, in units of an input's size.

    Attributes:
        nets: what makes x~ and delta~ of x and delta, and the signed rates.
        moving: statistics take in the tokens of every edit first, matrix by matrix, as in the published training (and
            in the ROME repository's baseline, at edit time too).
        tokens: one of `TOKENS`.
    """

    nets: Nets
    moving: bool = False
    tokens: str = ALL

    @property
    def places(self) -> tuple[Place, ...]:
        """The matrices."""
        return self.nets.places

    def changes(
        self, model: Model, groups: Sequence[Sequence[Row]], max_rows: int | None = None, read: Read = read_logits
    ) -> Changes:
        """One change of every matrix per group; the loss of a group is the mean over all its target tokens.

        Args:
            model: to be edited.
            groups: requests as rows.
            max_rows: as of `token_factors`.
            read: likewise.
        """
        rows = [row for group in groups for row in group]
        shares = [number for number, group in enumerate(groups) for _ in group]
        found = token_factors(model, rows, self.places, shares, max_rows=max_rows, read=read)
        share = torch.tensor(shares, device=found.nll.device)
        nets, low, told = self.nets, {}, {}
        for i, place in enumerate(self.places):
            own = kept(found.factors[place.key], rows, self.tokens)
            nets = nets.seeing(place, own.x, own.delta) if self.moving else nets
            x, delta = nets.made_of(place, own.x, own.delta)
            key, group = nets.as_key(place, x), share[own.row]
            low[place.key] = LowRank.of(nets.parameters["rate"][i] * key, delta, group, len(groups))
            told[place.key] = {"group": group, "x": own.x, "delta": own.delta, "x_made": x, "delta_made": delta}
        return Changes(low, told, found.nll, nets.statistics)
