"""The prompts of `tracer neurons`: those given, or those that go with a fact of the embedded model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tracer.engine.answer import own_answer
from tracer.errors import CommandOptionError, EmptyText, OutOfRange
from tracer.facts.fact import SLOT, Fact
from tracer.facts.readout import answer_text, as_fact

from .command import apart

if TYPE_CHECKING:
    from tracer.model import Model

NEIGHBOURS = 4  # with the same object, and with another


@dataclass(frozen=True)
class Prompts:
    """Facts by their part in the search.

    Attributes:
        wordings: the fact itself, then its paraphrases.
        negatives: prompts that do not hold the fact.
        other: wordings of the fact that is the control; empty without a control.
        neighbours: facts that are measured beside it.
        contrast: texts that an activation contrast compares with.
    """

    wordings: tuple[Fact, ...]
    negatives: tuple[Fact, ...]
    other: tuple[Fact, ...]
    neighbours: tuple[Fact, ...]
    contrast: tuple[Fact, ...]

    def aligned(self, model: Model, token: str | int) -> Prompts:
        """These prompts with one answer for all wordings.

        Without a target the answer is the model's own after the first wording.

        Raises:
            TracerError: one of the prompts cannot be run.
        """
        first = self.wordings[0]
        wordings = self.wordings
        if first.target is None and len(wordings) > 1:
            answer = own_answer(model, first)
            named = replace(first, target=answer_text(model, answer))
            if named.align(model).target_ids != tuple(answer):
                raise EmptyText(f"what the model says, {named.target!r}, is no text by itself; name a --target")
            wordings = tuple(replace(fact, target=named.target) for fact in wordings)
        for fact in (*wordings, *self.negatives, *self.other, *self.neighbours, *self.contrast):
            tokens = len(fact.align(model).input_ids)
            if isinstance(token, int) and not -tokens <= token < tokens:
                raise OutOfRange(f"token {token} is out of range: {fact.text!r} has {tokens} tokens")
        return replace(self, wordings=wordings)


@dataclass(frozen=True)
class Given:
    """The texts of the command, by option.

    Attributes:
        subject: the subject of the fact.
        prompt: the text to be continued.
        target: the answer.
        relation: take the fact and its company from the embedded model.
        paraphrases: other wordings of the fact.
        negatives: prompts that do not hold the fact.
        other: the fact that is the control.
        contrast: texts for an activation contrast.
    """

    subject: str
    prompt: str | None
    target: str | None
    relation: str | None
    paraphrases: Sequence[str]
    negatives: Sequence[str]
    other: str | None
    contrast: Sequence[str]

    def prompts(self, seed: int) -> Prompts:
        """The facts to look at.

        Raises:
            TracerError: texts that do not make facts, or a fact that FactWorld does not have.
        """
        if self.relation is not None:
            return self._of_factworld(self.relation, seed)
        if self.prompt is None:
            raise EmptyText("there is no prompt; write it first, or choose a fact by --relation")
        texts = [self.prompt, *self.paraphrases]
        wordings = [Fact(text, self.subject, self.target) for text in texts]
        return self._with(wordings, [] if self.other is None else [self._other()], ())

    def _of_factworld(self, relation: str, seed: int) -> Prompts:
        from tracer.factworld import find, neighbours, paraphrases

        apart({"--target": self.target}, "comes with the fact that --relation chooses; leave one of them out")
        fact = find(self.subject, relation)
        own = [] if self.prompt is None else [Fact(self.prompt, fact.subject, fact.target)]
        more = [Fact(text, fact.subject, fact.target) for text in self.paraphrases]
        alike = neighbours(fact, NEIGHBOURS, same_object=True, seed=seed)
        # one more: the control is not a neighbour, since its neurons are acted on there
        control, *unlike = neighbours(fact, NEIGHBOURS + 1, same_object=False, seed=seed)
        other = list(paraphrases(control)) if self.other is None else [self._other()]
        return self._with([*own, *paraphrases(fact), *more], other, (*alike, *unlike))

    def _with(self, wordings: Iterable[Fact], other: Sequence[Fact], neighbours: tuple[Fact, ...]) -> Prompts:
        each_once = {fact.text: fact for fact in reversed(list(wordings))}
        return Prompts(
            wordings=tuple(reversed(each_once.values())),
            negatives=tuple(self._bare(text) for text in self.negatives),
            other=tuple(other),
            neighbours=neighbours,
            contrast=tuple(self._bare(text) for text in self.contrast),
        )

    def _other(self) -> Fact:
        assert self.other is not None
        if SLOT in self.other:
            raise CommandOptionError(
                f"--other {self.other!r} is about another subject; write it out in the place of {{}}"
            )
        return as_fact(self.other)

    def _bare(self, text: str) -> Fact:
        """A text that holds no fact; it may be about the subject."""
        about = SLOT in text or text.count(self.subject) == 1
        return Fact(text, self.subject) if about else as_fact(text)
