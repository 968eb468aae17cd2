"""What records teach a method that is trained: an edit, the questions that are about it, and those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editing.questions.question import MEASURES, Question
from editing.request import EditRequest
from tracer.errors import NotPrepared
from tracer.facts.readout import answer_text

if TYPE_CHECKING:
    from editing.questions.record import EditRecord
    from tracer.model import Model

ABOUT = ("paraphrase", "subject_alias")
APART = (*MEASURES["locality"], "attribute")


@dataclass(frozen=True)
class Lesson:
    """A rewrite of a record.

    Attributes:
        request: the edit.
        target: with its leading space.
        about: questions that the edit answers: other wordings.
        apart: questions that it does not: neighbours, of which some share the answer; other facts of the subject.
        relation: its name in the benchmark, where it has one.
    """

    request: EditRequest
    target: str
    about: tuple[str, ...]
    apart: tuple[Question, ...]
    relation: str | None = None

    @property
    def prompt(self) -> str:
        """The prompt of the edit."""
        return self.request.text

    @property
    def questions(self) -> tuple[str, ...]:
        """All prompts: the edit's, those about it, and the others."""
        return (self.prompt, *self.about, *(question.prompt for question in self.apart))


def lessons_of(model: Model, records: Sequence[EditRecord], method: str) -> list[Lesson]:
    """Lessons of records, one for each of their rewrites that has questions about it.

    Args:
        model: whose tokenizer says how a target is spaced.
        records: with paraphrases.
        method: that is taught, for messages.

    Raises:
        TracerError: none of them has a paraphrase.
    """
    found = []
    for record in records:
        for case, (rewrite, request) in enumerate(zip(record.rewrites, record.requests(), strict=True)):
            own = [question for question in record.asks if question.case == case or len(record.rewrites) == 1]
            about = tuple(question.prompt for question in own if question.kind in ABOUT)
            apart = tuple(question for question in own if question.kind in APART)
            target = answer_text(model, request.fact.align(model).target_ids)
            if about:
                found.append(Lesson(request, target, about, apart, rewrite.relation))
    if records and not found:
        raise NotPrepared(
            f"{method} learns from paraphrases what is about an edit, and none of the {len(records)} records has one; "
            "give records with paraphrases"
        )
    return found
