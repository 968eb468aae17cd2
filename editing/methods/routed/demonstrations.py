"""Demonstrations of in-context editing (Zheng et al. 2023): what to copy, what to say in other words, what to leave.

A demonstration states a new fact and continues a prompt: "copy", the fact's own; "update", a paraphrase, both with the
new answer; "retain", a neighbour, with its own answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from editing.memories.text import SLOTS, filled
from tracer.facts.prompt import unmarked
from tracer.text import plain

if TYPE_CHECKING:
    from editing.questions.record import EditRecord
    from editing.request import EditRequest

TEMPLATE = f"New Fact: {SLOTS[0]}\nPrompt: {SLOTS[1]}"
END = "\n\n"
COPY, UPDATE, RETAIN = range(3)
PATTERN = tuple(map(int, "21201220221021201212121212121212"))
"""The published kinds of 32 demonstrations, before they are shuffled."""


@dataclass(frozen=True)
class Demonstration:
    """A record to demonstrate with.

    Attributes:
        prompt: with its subject.
        subject: of the fact.
        new: the answer that is written.
        true: the answer before; None: not known.
        paraphrases: other wordings.
        neighbours: prompts about other subjects, and their answers.
        mark: of spans, where the answer belongs; behind prompts without it.
    """

    prompt: str
    subject: str
    new: str
    true: str | None
    paraphrases: tuple[str, ...]
    neighbours: tuple[tuple[str, str], ...]
    mark: str | None = None

    @classmethod
    def of(cls, record: EditRecord, mark: str | None = None) -> Self:
        """The demonstration of a record's first fact.

        Args:
            record: with paraphrases and neighbours.
            mark: of spans; None: there are none.
        """
        fact, request = record.rewrites[0], record.requests()[0]
        own = [one for one in record.asks if one.case == 0]
        paraphrases = tuple(one.prompt for one in own if one.kind == "paraphrase")
        neighbours = tuple((one.prompt, one.answer) for one in own if one.kind == "neighbour" and one.answer)
        return cls(request.text, fact.subject, fact.target_new, fact.target_true, paraphrases, neighbours, mark)

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> Self:
        """The demonstration of a json line."""
        pairs = tuple((prompt, answer) for prompt, answer in line["neighbours"])
        return cls(**{**line, "paraphrases": tuple(line["paraphrases"]), "neighbours": pairs})

    def line(self) -> dict[str, Any]:
        """As json values; without a mark where there is none, as in what was prepared before there were marks."""
        return {name: value for name, value in asdict(self).items() if name != "mark" or value is not None}

    @property
    def fact(self) -> str:
        """The new fact as a text."""
        return self._stated(self.prompt, self.new)

    @property
    def known_by(self) -> str:
        """The text that is compared with an edit's."""
        return filled(TEMPLATE, self.fact, self.prompt)

    def shown(self, prompt: str, answer: str) -> str:
        """The text of a demonstration of the new fact with a prompt and its answer."""
        return filled(TEMPLATE, self.fact, self._stated(prompt, answer)) + END

    def _stated(self, prompt: str, answer: str) -> str:
        return unmarked(prompt, answer.strip(), self.mark)

    def drawn(self, kind: int, draw: Random) -> str:
        """A demonstration of a kind, with one of its prompts.

        Args:
            kind: 0 copy, 1 update, 2 retain.
            draw: chooses among paraphrases or neighbours, also where there is but one.
        """
        if kind == COPY:
            return self.shown(self.prompt, self.new)
        if kind == UPDATE:
            return self.shown(draw.choice(self.paraphrases), self.new)
        return self.shown(*draw.choice(self.neighbours))

    def three(self) -> tuple[str, str, str]:
        """One of each kind, with the first paraphrase and neighbour: EasyEdit's pool."""
        prompt, answer = self.neighbours[0]
        shown = (self.prompt, self.new), (self.paraphrases[0], self.new), (prompt, answer)
        copy, update, retain = (self.shown(*pair) for pair in shown)
        return copy, update, retain

    def disjoint(self, request: EditRequest) -> bool:
        """Whether it has neither the subject of an edit nor its pair of answers.

        Args:
            request: the edit.
        """
        answers = (request.target_new, request.target_true)
        pairs = [{plain(each) for each in some if each} for some in ((self.new, self.true), answers)]
        return plain(self.subject) != plain(request.subject) and not (len(pairs[0]) > 1 and pairs[0] == pairs[1])


def kinds_of(count: int, ratio: Sequence[int]) -> list[int]:
    """So many kinds in a ratio of copy, update and retain, in the order in which they are shuffled.

    Args:
        count: of them.
        ratio: (1, 3, 4) as published; of 32 the published list.
    """
    if tuple(ratio) == (1, 3, 4) and count == len(PATTERN):
        return list(PATTERN)
    shares = [count * share / sum(ratio) for share in ratio]
    numbers = [int(share) for share in shares]
    by_rest = sorted(range(3), key=lambda kind: (numbers[kind] - shares[kind], kind))
    for kind in by_rest[: count - sum(numbers)]:
        numbers[kind] += 1
    return [kind for kind in range(3) for _ in range(numbers[kind])]


def nearest(query: Tensor, embeddings: Tensor, count: int) -> list[int]:
    """Places of the nearest vectors by cosine, the best first.

    Args:
        query: [width].
        embeddings: [n, width].
        count: of them, at most.
    """
    similar = torch.nn.functional.normalize(embeddings, dim=1) @ torch.nn.functional.normalize(query, dim=0)
    return similar.argsort(descending=True, stable=True)[:count].tolist()


def original(chosen: Sequence[Demonstration], ratio: Sequence[int], draw: Random) -> list[str]:
    """Demonstrations as published: kinds in a ratio, shuffled, and the nearest record last.

    Args:
        chosen: records, the nearest first.
        ratio: of copy, update and retain.
        draw: of the shuffle and of the choices.
    """
    kinds = kinds_of(len(chosen), ratio)
    draw.shuffle(kinds)
    return [each.drawn(kind, draw) for each, kind in zip(chosen, kinds, strict=True)][::-1]


def own_copy(fact: str) -> str:
    """The edit's own copy example, which stands behind the others.

    Args:
        fact: the edit as a text, with its target.
    """
    return filled(TEMPLATE, fact, fact) + END


def pooled(sentences: Sequence[str], embeddings: Tensor, query: Tensor, count: int) -> list[str]:
    """Demonstrations as EasyEdit has them: the nearest sentences of a pool, of whatever kinds, the best first.

    Args:
        sentences: three of each record.
        embeddings: of the sentences, [3 n, width].
        query: of the edit, [width].
        count: of them.
    """
    return [sentences[place] for place in nearest(query, embeddings, count)]
