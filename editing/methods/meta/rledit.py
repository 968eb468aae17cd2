"""RLEdit's objective (Li et al. 2025): edits come in a sequence of batches, and earlier ones are to be kept.

Earlier batches stay in as changes of low rank that are put together. What is learnt of a batch is that its own targets
and those of the batches before it are said, the older the less, while kept rows stay as they were just before it. No
gradient flows into the changes before; so every batch has a backward pass of its own, and a sequence is one step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from tracer.engine.batch import Row

from .episodes import Episode, Episodes
from .factors import Read
from .in_turn import InTurn, added
from .losses import effect
from .lowrank import LowRank, edited
from .settings import RLEditPreparation
from .teaching import ASKED, Alone, scores


@dataclass(frozen=True, eq=False)
class Retained(Alone):
    """Batches one after another, of which earlier ones are to be kept."""

    settings: RLEditPreparation

    def step(self, episodes: Episodes, draw: Random, read: Read) -> Mapping[str, Any]:
        """Mean losses of a sequence; gradients are in place."""
        size = draw.choice(self.settings.numbers)
        episode = episodes.sequence_at(draw, self.settings.sequence, size)
        so_far: dict[str, LowRank] = {}
        sums: dict[str, float] = {}
        for batch in range(len(episode.groups)):
            with edited(self.model, self.editor.places, so_far, None):
                low = self.editor.changes(self.model, [episode.groups[batch]], read=read).low
                told = self._losses(low, episode, batch, read)
            (told["loss"] / len(episode.groups)).backward()
            so_far = added(so_far, {key: LowRank(one.u.detach(), one.v.detach()) for key, one in low.items()})
            for name, value in told.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(episode.groups)
        return sums

    def _losses(self, low: Mapping[str, LowRank], episode: Episode, batch: int, read: Read) -> dict[str, Tensor]:
        """Losses of a batch and of those before it; "retained" is the share of the latter's target tokens said."""
        said, said_age = _rows(episode.said, episode.said_group, batch, self.settings.depth)
        kept, kept_age = _rows(episode.kept, episode.kept_group, batch, self.settings.depth)
        rows = (said, [0] * len(said), kept, [0] * len(kept))
        found = effect(self.model, self.editor.places, low, *rows, read, self.loss)
        edit = self._mean(found.nll, said, said_age)
        locality = self._mean(found.kl, kept, kept_age)
        told = {"loss": self.weighed(edit, locality), "edit loss": edit, "locality loss": locality}
        right = found.right.float()
        old = torch.tensor([age > 0 for row, age in zip(said, said_age, strict=True) for _ in row.read])
        told["said"] = right[~old].mean()
        return {**told, "retained": right[old].mean() if batch else told["said"]}

    def _mean(self, losses: Tensor, rows: Sequence[Row], ages: Sequence[int]) -> Tensor:
        """Weighted mean over places, of less weight with age."""
        weight = [self.settings.retention**age for row, age in zip(rows, ages, strict=True) for _ in row.read]
        each = torch.tensor(weight, dtype=losses.dtype, device=losses.device)
        return (losses * each).sum() / each.sum().clamp_min(1e-9)

    def validate(self, asked: Episodes, read: Read) -> Mapping[str, float]:
        """Scores of the held-out lessons when all of them are in, batch after batch."""
        size = max(self.settings.numbers)
        episode = asked.fixed(size, self.settings.validate_on, ASKED)
        groups = [[row for group in episode.groups for row in group]]
        whole = replace(episode, groups=groups, said_group=[0] * len(episode.said), kept_group=[0] * len(episode.kept))
        return scores(self.model, InTurn(self.editor, size), whole, read)


def _rows(rows: Sequence[Row], groups: Sequence[int], batch: int, depth: int) -> tuple[list[Row], list[int]]:
    """Rows of a batch and of some before it, and how many batches ago each was."""
    chosen = [(row, batch - group) for row, group in zip(rows, groups, strict=True) if 0 <= batch - group < depth]
    return [row for row, _ in chosen], [age for _, age in chosen]
