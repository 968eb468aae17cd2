"""Forwards that begin at a block: what enters it is kept by row, and the blocks below are passed by.

For a training that changes nothing below that block and meets the same rows again and again. Not every model takes to
it; whether one does is tried on the first rows, and all blocks are run where it does not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .aligned import passed_by
from .batch import Row, logits_of, padded
from .forward import BlockArguments, Stop
from .trial import unlike

if TYPE_CHECKING:
    from tracer.model import Model

KEPT = 1 << 28  # bytes of states
TRIED = 4  # rows


class Above:
    """What enters a block of a model, by row; those not used for longest go when there are too many.

    Args:
        model: its weights, and no memories, below the block stay as they are.
        start: the block.
        kept: bytes of states that are kept.
    """

    def __init__(self, model: Model, start: int, kept: int = KEPT) -> None:
        self.model, self.start, self.room = model, start, kept
        self._states: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()  # [tokens, d] by ids
        self._held = 0
        self._able: bool | None = None if start and not model.stacks else False  # two stacks are run whole

    @contextmanager
    def begun(self, rows: Sequence[Row]) -> Iterator[None]:
        """Context in which a forward over these rows, filled up on the right, begins at the block.

        Args:
            rows: of the forward, in its order.
        """
        if self._able is None:
            self._able = self._tried(rows[:TRIED])
        with self._entering(rows) if self._able else ExitStack():
            yield

    def _tried(self, rows: Sequence[Row]) -> bool:
        model = self.model
        ids = padded(model, rows)

        def again() -> Tensor:
            with self._entering(rows):
                return logits_of(model, ids)[:, 0]

        with torch.no_grad():
            return not unlike(logits_of(model, ids)[:, 0], again, model.dtype)

    @contextmanager
    def _entering(self, rows: Sequence[Row]) -> Iterator[None]:
        states = self._of(rows)
        blocks: list[nn.Module] = [self.model.module("hidden", layer) for layer in range(self.start + 1)]
        with passed_by(blocks[:-1]), ExitStack() as stack:
            stack.callback(BlockArguments(lambda _: states).attach(blocks[-1]).remove)
            yield

    def _of(self, rows: Sequence[Row]) -> Tensor:
        """What enters the block, [rows, tokens, d]; zeros where there is padding."""
        for row in rows:
            if row.ids not in self._states:
                self._states[row.ids] = own = self._run(row)
                self._held += own.nbytes
        found = nn.utils.rnn.pad_sequence([self._states[row.ids] for row in rows], batch_first=True)
        for row in rows:
            self._states.move_to_end(row.ids)
        while self._held > self.room:
            self._held -= self._states.popitem(last=False)[1].nbytes
        return found

    def _run(self, row: Row) -> Tensor:
        """What enters the block, [tokens, d]; each row by itself, so that its bits do not depend on others."""
        entering: list[Tensor] = []

        def keep(hidden: Tensor) -> None:
            entering.append(hidden[0].detach().clone())
            raise Stop

        handle = BlockArguments(keep).attach(self.model.module("hidden", self.start))
        try:
            with torch.no_grad(), suppress(Stop):
                logits_of(self.model, padded(self.model, [row]))
        finally:
            handle.remove()
        return entering[0]
