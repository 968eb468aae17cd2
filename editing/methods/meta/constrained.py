"""KE's objective: say the targets as well as can be while others move by no more than a margin, by a multiplier.

    minimise over the net, maximise over the multiplier:    edit loss + multiplier (KL - margin)

The margin shrinks while edits succeed (De Cao et al. 2021, section 3.2 and their code).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor

from .episodes import Episodes
from .factors import Read
from .teaching import Alone

ENOUGH = 0.9  # of the edits of a validation succeed: the margin shrinks
SHRINKS = 0.8  # to this share of itself


def constrained(edit: Tensor, divergence: Tensor, multiplier: Tensor, margin: Tensor | float) -> Tensor:
    """The Lagrangian, with the multiplier's gradient turned around: one optimiser goes downhill with all of it.

    Args:
        edit: loss on the targets.
        divergence: of kept rows.
        multiplier: of the constraint.
        margin: largest divergence.
    """
    over = divergence - margin
    return edit + multiplier.detach() * over - (multiplier - multiplier.detach()) * over.detach()


@dataclass(frozen=True, eq=False)
class Constrained(Alone):
    """Groups by themselves, under a constraint on what kept rows move.

    Attributes:
        multiplier: of the constraint; trained.
        margin: largest divergence; no gradient.
        least: of the margin.
    """

    multiplier: Tensor = field(kw_only=True)
    margin: Tensor = field(kw_only=True)
    least: float = 0.0

    def step(self, episodes: Episodes, draw: Random, read: Read) -> Mapping[str, Any]:
        """As of `Alone`, with a multiplier that is not negative."""
        with torch.no_grad():
            self.multiplier.clamp_(min=0)
        return super().step(episodes, draw, read)

    def weighed(self, edit: Tensor, locality: Tensor) -> Tensor:
        """The Lagrangian."""
        return constrained(edit, locality, self.multiplier, self.margin)

    def validate(self, asked: Episodes, read: Read) -> Mapping[str, float]:
        """As of `Alone`; the margin shrinks where enough of the rewrites and paraphrases are said."""
        told = super().validate(asked, read)
        if (told["rewrite"] + told.get("paraphrase", told["rewrite"])) / 2 > ENOUGH:
            self.margin.mul_(SHRINKS).clamp_(min=self.least)
        return {**told, "margin": float(self.margin), "multiplier": float(self.multiplier)}
