"""What the embedded T5 is trained on: facts as spans to fill in and as questions, with the place of each mention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from tracer.factworld import plain
from tracer.factworld.corpus import Piece, Statement, around, state
from tracer.factworld.grammar import ESSENCE
from tracer.factworld.questions import QUESTIONS

END, PAD = "</s>", "<pad>"
SENTINELS = tuple(f"<extra_id_{number}>" for number in range(4))
POOL = 16  # batches that are made together

# ids of the source, which of them are the subject's (1 or 0), labels, and their weights
Encoded = tuple[list[int], list[int], list[int], list[float]]


@dataclass(frozen=True)
class Rows:
    """A batch, filled up on the right.

    Attributes:
        source: ids of the encoder [rows, source].
        real: which of them are no padding, bool.
        mention: which belong to the subject, bool.
        last: which is the last of these, bool.
        labels: ids that the decoder is to write [rows, steps]; -100 where there are no more.
        weight: of each in the loss.
    """

    source: Tensor
    real: Tensor
    mention: Tensor
    last: Tensor
    labels: Tensor
    weight: Tensor


class T5Corpus:
    """Endless, seeded source of batches over a set of facts.

    Args:
        statements: all facts to be told.
        aliases: other names of subjects.
        encode: text to ids; pieces begin at word boundaries, so that they can be encoded one by one.
        ids: of the special tokens, by text.
        seed: the whole sequence follows from it.
    """

    def __init__(
        self,
        statements: Sequence[Statement],
        aliases: dict[str, tuple[str, ...]],
        encode: Callable[[str], list[int]],
        ids: dict[str, int],
        seed: int,
    ) -> None:
        self.statements, self.aliases, self.ids = list(statements), aliases, ids
        self._encode, self._cache = encode, dict[str, list[int]]()
        self.rng, self.epoch = Random(seed), 0
        self._queue: list[int] = []
        self._waiting: list[list[Encoded]] = []  # batches that are made

    def state(self) -> dict[str, Any]:
        """Present place in the sequence, for `restore`."""
        lists = {"queue": list(self._queue), "waiting": list(self._waiting)}
        return {"rng": self.rng.getstate(), "epoch": self.epoch, **lists}

    def restore(self, state: dict[str, Any]) -> None:
        """Carry on where `state` was taken."""
        self.rng.setstate(state["rng"])
        self._queue, self._waiting, self.epoch = list(state["queue"]), list(state["waiting"]), state["epoch"]

    def encode(self, text: str) -> list[int]:
        """Ids of a piece of text, from a cache where they are known."""
        if text not in self._cache:
            self._cache[text] = self._encode(text)
        return self._cache[text]

    def batch(self, rows: int) -> Rows:
        """The next rows; every fact is told once before any is told again, those of like length together."""
        if not self._waiting:
            made = sorted((self._row(self._next()) for _ in range(POOL * rows)), key=lambda row: len(row[0]))
            self._waiting = [made[start : start + rows] for start in range(0, len(made), rows)]
            self.rng.shuffle(self._waiting)
        return collated(self._waiting.pop(), self.ids[PAD])

    def _next(self) -> Statement:
        if not self._queue:
            self._queue = list(range(len(self.statements)))
            self.rng.shuffle(self._queue)
            self.epoch += 1
        return self.statements[self._queue.pop()]

    def _row(self, told: Statement) -> Encoded:
        rng, answer = self.rng, told.object
        names = self.aliases.get(told.subject, ())
        name = rng.choice(list(names)) if names and rng.random() < 0.15 else told.subject
        asked = rng.random() < 0.15
        if asked:
            pieces = around(QUESTIONS[told.relation], name)
        elif rng.random() < 0.05:
            pieces, answer = around("{} is a", name), ESSENCE[told.type]
        else:
            pieces = state(told, name, rng)[:-2]  # without the object and the full stop
        if rng.random() < 0.25:
            pieces = [Piece(" " + plain.sentence(rng), "plain"), *pieces]
        source, mention = [], []
        for piece in pieces:
            tokens = self.encode(piece.text)
            source += tokens
            mention += [int(piece.kind == "mention")] * len(tokens)
        behind = [*([] if asked else [self.ids[SENTINELS[0]]]), self.ids[END]]
        written = self.encode(" " + answer)
        labels, weight = [*written, self.ids[END]], [1.0] * len(written) + [0.2]
        if not asked:
            labels = [self.ids[SENTINELS[0]], *written, self.ids[SENTINELS[1]], self.ids[END]]
            weight = [0.05, *weight, 0.05]
        return source + behind, mention + [0] * len(behind), labels, weight


def collated(rows: Sequence[Encoded], pad: int) -> Rows:
    """Rows in one batch."""

    def filled(column: int, value: float, dtype: torch.dtype) -> Tensor:
        each = [torch.tensor(row[column], dtype=dtype) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(each, batch_first=True, padding_value=value)

    source, mention = filled(0, pad, torch.long), filled(1, 0, torch.long).bool()
    behind = torch.nn.functional.pad(mention[:, 1:], (0, 1))
    labels = filled(2, -100, torch.long)
    return Rows(source, source != pad, mention, mention & ~behind, labels, filled(3, 0.0, torch.float32))
