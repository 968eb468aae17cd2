"""What a memory decided about a prompt, and how it came to that."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Decision:
    """A memory acts on a prompt.

    Attributes:
        entry: which of its entries, a row of its tensors.
        score: how near the prompt came to it, in the kind's own measure; nan where there is none.
    """

    entry: int = 0
    score: float = math.nan


@dataclass(frozen=True)
class Route:
    """How a memory decided about a prompt, whichever way it went.

    Attributes:
        hit: whether an entry acts.
        entry: the nearest one; -1: there is none.
        score: how near the prompt came to it, in the kind's own measure (a distance, a similarity, an activation); nan
            where there is none.
        threshold: the score at which it acts or not; nan where there is none.
        runner_up: the next nearest entry; -1: there is none.
        runner_up_score: its score.
    """

    hit: bool
    entry: int = -1
    score: float = math.nan
    threshold: float = math.nan
    runner_up: int = -1
    runner_up_score: float = math.nan

    @property
    def decision(self) -> Decision | None:
        """What follows from it; None: the memory stays out of the prompt."""
        return Decision(self.entry, self.score) if self.hit else None
