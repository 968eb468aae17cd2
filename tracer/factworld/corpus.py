"""Articles about subjects, as token sequences with the place of each mention.

An article is a few sentences about one subject, each stating one fact (objects follow the template directly), in random
order, some with a pronoun, some after an opening of plain sentences or of another subject's fact. Articles are packed
into rows of equal length. Every token carries the number of the mention it belongs to and a weight in the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from . import plain
from .grammar import ESSENCE, PHRASINGS

WEIGHTS = {"object": 1.0, "text": 0.2, "mention": 0.05, "plain": 0.2}
"""Loss weights: a row is mostly wording, and wording is learnt early; objects are what has to be learnt."""


@dataclass(frozen=True)
class Statement:
    """One fact as the corpus needs it."""

    subject: str
    type: str
    relation: str
    object: str


@dataclass(frozen=True)
class Piece:
    """A run of text of one kind. Every piece begins at a word boundary.

    Attributes:
        text: the text.
        kind: "text", "plain", "mention" or "object".
    """

    text: str
    kind: str


@dataclass(frozen=True)
class Rows:
    """A batch of packed rows, each array [rows, length].

    Attributes:
        ids: token ids.
        mention: mention numbers; 0 outside of any.
        last: whether the token is the last of its mention.
        weight: the weight of predicting this token.
    """

    ids: np.ndarray
    mention: np.ndarray
    last: np.ndarray
    weight: np.ndarray


def around(template: str, name: str) -> list[Piece]:
    """A template in pieces, with a name in the subject's place."""
    before, after = template.split("{}", 1)
    pieces = [Piece(" " + before.rstrip(), "text")] if before else []
    pieces.append(Piece(" " + name, "mention"))
    return [*pieces, Piece(after, "text")] if after else pieces


def state(statement: Statement, name: str, rng: Random, pronoun: bool = False) -> list[Piece]:
    """A sentence stating the fact, in one of its relation's training templates (or after a pronoun)."""
    phrasing = PHRASINGS[statement.relation]
    head = [Piece(" " + phrasing.pronoun, "text")] if pronoun else around(rng.choice(phrasing.train), name)
    return [*head, Piece(" " + statement.object, "object"), Piece(".", "text")]


def article(
    statements: Sequence[Statement], others: Callable[[], Statement], rng: Random, aliases: Sequence[str] = ()
) -> list[Piece]:
    """An article about one subject that tells all of `statements` in random order."""
    subject, kind = statements[0].subject, statements[0].type
    name = rng.choice(list(aliases)) if aliases and rng.random() < 0.25 else subject
    pieces: list[Piece] = []
    if rng.random() < 0.35:
        for _ in range(rng.choice((1, 1, 2))):
            if rng.random() < 0.6:
                pieces.append(Piece(" " + plain.sentence(rng), "plain"))
            else:
                other = others()
                pieces += state(other, other.subject, rng)
    sentences = []
    order = list(statements)
    rng.shuffle(order)
    for i, statement in enumerate(order):
        sentences.append(state(statement, name, rng, pronoun=i > 0 and rng.random() < 0.12))
    if rng.random() < 0.25:
        essence = [*around("{} is a", name), Piece(" " + ESSENCE[kind], "text"), Piece(".", "text")]
        sentences.insert(0, essence)  # before any pronoun could lose its subject
    for sentence in sentences:
        pieces += sentence
    if rng.random() < 0.1:
        pieces.append(Piece(" " + plain.sentence(rng), "plain"))
    return pieces


def chunks(statements: Sequence[Statement], rng: Random) -> Iterator[list[Statement]]:
    """The facts of one subject cut into articles of one to four."""
    order = list(statements)
    rng.shuffle(order)
    while order:
        take = rng.choice((1, 2, 3, 4))
        yield order[:take]
        order = order[take:]


def text_of(pieces: Sequence[Piece]) -> str:
    """The article as plain text."""
    return "".join(piece.text for piece in pieces).lstrip()


class Corpus:
    """Endless, seeded source of packed rows over a set of facts.

    Args:
        statements: all facts to be told.
        aliases: other names of subjects, used for a share of their articles.
        encode: text to token ids; pieces begin at word boundaries, so pieces can be encoded one by one.
        eos: id put between some articles.
        seed: the whole sequence of rows follows from it.
    """

    def __init__(
        self,
        statements: Sequence[Statement],
        aliases: dict[str, tuple[str, ...]],
        encode: Callable[[str], list[int]],
        eos: int,
        seed: int,
    ) -> None:
        self.by_subject: dict[tuple[str, str], list[Statement]] = {}
        for statement in statements:
            self.by_subject.setdefault((statement.subject, statement.type), []).append(statement)
        self.statements = list(statements)
        self.aliases, self.eos = aliases, eos
        self._encode = encode
        self._cache: dict[str, list[int]] = {}
        self.rng = Random(seed)
        self.epoch = 0
        self._queue: list[list[Statement]] = []

    def encode(self, text: str) -> list[int]:
        """Token ids of a piece of text, from a cache where they are known."""
        if text not in self._cache:
            if len(self._cache) > 200_000:
                self._cache.clear()
            self._cache[text] = self._encode(text)
        return self._cache[text]

    def next_article(self) -> list[Piece]:
        """The next article; every fact is told once before any is told again."""
        if not self._queue:
            for group in self.by_subject.values():
                self._queue += chunks(group, self.rng)
            self.rng.shuffle(self._queue)
            self.epoch += 1
        told = self._queue.pop()
        if self.rng.random() < 0.04:
            return [Piece(" " + plain.sentence(self.rng), "plain") for _ in range(self.rng.randint(2, 5))]
        return article(told, lambda: self.rng.choice(self.statements), self.rng, self.aliases.get(told[0].subject, ()))

    def state(self) -> dict[str, Any]:
        """Present place in the sequence of rows, for `restore`."""
        return {"rng": self.rng.getstate(), "queue": self._queue, "epoch": self.epoch}

    def restore(self, state: dict[str, Any]) -> None:
        """Carry on where `state` was taken."""
        self.rng.setstate(state["rng"])
        self._queue, self.epoch = state["queue"], state["epoch"]

    def row(self, length: int) -> tuple[list[int], list[int], list[bool], list[float]]:
        """One row of `length` tokens: ids, mention numbers, whether each ends its mention, weights."""
        ids: list[int] = []
        mention: list[int] = []
        last: list[bool] = []
        weight: list[float] = []
        number = 0
        while len(ids) < length:
            if ids and self.rng.random() < 0.3:
                ids.append(self.eos)
                mention.append(0)
                last.append(False)
                weight.append(WEIGHTS["text"])
            for piece in self.next_article():
                tokens = self.encode(piece.text)
                ids += tokens
                number += piece.kind == "mention"
                inside = piece.kind == "mention"
                mention += [number if inside else 0] * len(tokens)
                last += [False] * (len(tokens) - 1) + [inside]
                weight += [WEIGHTS[piece.kind]] * len(tokens)
        return ids[:length], mention[:length], last[:length], weight[:length]

    def rows(self, count: int, length: int) -> Rows:
        """`count` fresh rows of `length` tokens; each begins with an article's first token and no BOS."""
        columns = list(zip(*(self.row(length) for _ in range(count)), strict=True))
        kinds = (np.int64, np.int64, np.bool_, np.float32)
        return Rows(*(np.asarray(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))
