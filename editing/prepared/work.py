"""Interface of a preparation: what a method says about it, what it is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .store import Checkpoint

if TYPE_CHECKING:
    from editing.questions.record import EditRecord
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Work:
    """What a preparation is given besides the model and its settings.

    Attributes:
        records: to learn from.
        held_out: to validate on, of other subjects.
        seed: of the random draws.
        checkpoint: keeps the state now and then, and has that of a run that was cut off.
    """

    records: tuple[EditRecord, ...] = ()
    held_out: tuple[EditRecord, ...] = ()
    seed: int = 0
    checkpoint: Checkpoint = field(default_factory=Checkpoint)

    def draws(self, step: int) -> torch.Generator:
        """Generator of a step's draws: of the seed and the step alone, so that a run that goes on draws the same.

        Args:
            step: its number; negative ones are free for what comes before the steps.
        """
        return torch.Generator().manual_seed((self.seed * 1_000_003 + step) % (1 << 63))


@dataclass(frozen=True, eq=False)
class Made:
    """What a preparation gives back.

    Attributes:
        tensors: as of [`editing.Prepared`][].
        header: likewise.
        history: likewise.
        note: likewise.
    """

    tensors: Mapping[str, Tensor]
    header: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    note: str = ""


@dataclass(frozen=True)
class Preparation:
    """How a method is prepared.

    Attributes:
        settings: frozen dataclass of hyper-parameters of the preparation, with json values.
        make: `make(model, settings, work)` makes it. The model is at its weights, without memories and dropout, its
            parameters ask for no gradients, and it is left as found.
        records: whether it learns from records.
        summary: one line for help texts.
    """

    settings: type
    make: Callable[[Model, Any, Work], Made]
    records: bool = True
    summary: str = ""
