"""What an editor makes of groups of requests, and what an editor is to those that train and use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from editing.methods.training import read_logits
from tracer.engine.batch import Row

from .factors import Read
from .lowrank import LowRank
from .places import Place
from .statistics import Statistics

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Changes:
    """Changes for groups of requests, in the graph of the editor's parameters.

    Attributes:
        low: by key of the place.
        told: what led to them, by key of the place: "group" [n], the group of each token, and arrays [n, ...].
        nll: -log p of every target token before, [tokens].
        statistics: as they are afterwards, by shape, where the editor has some.
    """

    low: Mapping[str, LowRank]
    told: Mapping[str, Mapping[str, Tensor]]
    nll: Tensor
    statistics: Mapping[str, Statistics] = field(default_factory=dict)


class MetaEditor(Protocol):
    """An editor that was trained, or is being trained."""

    @property
    def places(self) -> tuple[Place, ...]:
        """The matrices that it changes."""
        ...

    def changes(
        self, model: Model, groups: Sequence[Sequence[Row]], max_rows: int | None = None, read: Read = read_logits
    ) -> Changes:
        """One change of every matrix per group, as if the group were alone.

        Args:
            model: to be edited; its parameters ask for no gradients.
            groups: requests as rows, with their targets.
            max_rows: rows run at once.
            read: gives logits.
        """
        ...
