"""What a KE editor is told of a request, in tokens, and the net that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from tracer.engine.batch import Row
from tracer.engine.follow import follow
from tracer.engine.line import Line
from tracer.facts.encoding import encode

if TYPE_CHECKING:
    from tracer.model import Model

Ids = tuple[int, ...]
PLAIN, CHANGE = "plain", "change"
CONDITIONS = (PLAIN, CHANGE)


class Conditions:
    """What is said of requests: prompt and target ("plain"), or also what is to go ("change": "old >> new || prompt").

    The old answer is what the model writes itself when it is first asked, of as many tokens as the target has.

    Args:
        kind: one of `CONDITIONS`.
        longest: tokens, at most; 0: any number.
    """

    def __init__(self, kind: str, longest: int = 0) -> None:
        self.kind, self.longest = kind, longest
        self._olds: dict[tuple[Ids, int], str] = {}

    def ids(self, model: Model, rows: Sequence[Row]) -> list[Ids]:
        """Tokens that a net is to read, row by row.

        Args:
            model: whose tokenizer is used, and whose answers are old.
            rows: of requests.
        """
        if self.kind == PLAIN:
            found = [(*row.ids, *row.target[-1:]) for row in rows]
        else:
            self._ask(model, [row for row in rows if _key(row) not in self._olds])
            found = [tuple(encode(model.tokenizer, self._text(model, row))[0]) for row in rows]
        return [ids[: self.longest or len(ids)] for ids in found]

    def _text(self, model: Model, row: Row) -> str:
        new, prompt = (_text(model, ids) for ids in (row.target, _prompt(row)))
        return f"{self._olds[_key(row)]} >> {new} || {prompt}"

    def _ask(self, model: Model, rows: Sequence[Row]) -> None:
        lines = [Line(_prompt(row), tokens=len(row.target)) for row in rows]
        for row, line in zip(rows, follow(model, lines) if lines else (), strict=True):
            self._olds[_key(row)] = _text(model, line.written)


def _prompt(row: Row) -> Ids:
    return tuple(row.ids[: row.read[0] + 1])


def _key(row: Row) -> tuple[Ids, int]:
    return _prompt(row), len(row.target)


def _text(model: Model, ids: Sequence[int]) -> str:
    return str(model.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


class Reader(nn.Module):
    """Reads tokens with a bidirectional LSTM; its last states become a vector by a linear layer and tanh.

    Args:
        width: of the embedding.
        hidden: of the LSTM, in each direction.
        condition: of the vector.
        embedding: [V, width], to be trained along; None: it is given to every call.
    """

    def __init__(self, width: int, hidden: int, condition: int, embedding: Tensor | None = None) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, condition)
        self.embedding = None if embedding is None else nn.Parameter(embedding.detach().float().clone())

    def forward(self, ids: Sequence[Ids], embedding: Tensor) -> Tensor:
        """Vectors, [rows, condition].

        Args:
            ids: tokens, row by row.
            embedding: [V, width], of the model; read where none of its own was trained.
        """
        table = embedding if self.embedding is None else self.embedding
        given = [table[torch.tensor(own, device=table.device)].float() for own in ids]
        _, (last, _) = self.lstm(pack_sequence(given, enforce_sorted=False))
        return torch.tanh(self.linear(torch.cat([last[0], last[1]], 1)))
