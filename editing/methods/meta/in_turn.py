"""Requests edited one batch after another, each on the model as the batches before have left it.

No weight is written meanwhile: earlier changes act as forwards of low rank, and their sum is the change of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.methods.training import read_logits
from tracer.engine.batch import Row

from .changes import Changes, MetaEditor
from .factors import Read
from .losses import effect
from .lowrank import LowRank, edited
from .places import Place

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class InTurn:
    """An editor that makes its changes batch by batch.

    Attributes:
        editor: makes those of a batch.
        size: requests of a batch.
        rounds: times that a batch is edited at most, again until its targets are said.
    """

    editor: MetaEditor
    size: int
    rounds: int = 1

    @property
    def places(self) -> tuple[Place, ...]:
        """The matrices."""
        return self.editor.places

    def changes(
        self, model: Model, groups: Sequence[Sequence[Row]], max_rows: int | None = None, read: Read = read_logits
    ) -> Changes:
        """One change of every matrix per group.

        Args:
            model: to be edited.
            groups: requests as rows.
            max_rows: as of `token_factors`.
            read: likewise.
        """
        each = [self._steps(model, group, max_rows, read) for group in groups]
        steps = [one for some in each for one in some]
        owners = torch.tensor([number for number, some in enumerate(each) for _ in some])
        low, told = {}, {}
        for place in self.places:
            parts = [one.low[place.key] for one in steps]
            u, v = torch.cat([part.u[0] for part in parts]), torch.cat([part.v[0] for part in parts])
            owner = owners.repeat_interleave(torch.tensor([part.u.shape[1] for part in parts]))
            low[place.key] = LowRank.of(u, v, owner, len(groups))
            told[place.key] = _joined([one.told[place.key] for one in steps])
        return Changes(low, told, torch.cat([one.nll for one in steps]), steps[-1].statistics)

    def _steps(self, model: Model, group: Sequence[Row], max_rows: int | None, read: Read) -> list[Changes]:
        found: list[Changes] = []
        so_far: Mapping[str, LowRank] = {}
        editor: Any = self.editor
        for start in range(0, len(group), self.size):
            batch = group[start : start + self.size]
            for number in range(self.rounds):
                with edited(model, self.places, so_far, None):
                    if number and bool(effect(model, (), {}, batch, [0] * len(batch), read=read).right.all()):
                        break
                    found.append(editor.changes(model, [batch], max_rows, read))
                so_far = added(so_far, found[-1].low)
                if found[-1].statistics:  # which may have moved
                    editor = replace(editor, nets=replace(editor.nets, statistics=found[-1].statistics))
        return found


def added(so_far: Mapping[str, LowRank], more: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """The sum of changes, by key of the place.

    Args:
        so_far: those before; none at the beginning.
        more: those to be added.
    """
    return {key: so_far[key].joined(low) if key in so_far else low for key, low in more.items()}


def _joined(told: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([one[name] for one in told]) for name in told[0]}
