"""What records teach SERAC: an edit, the questions that are about it, and those that are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from editing.questions.question import MEASURES
from tracer.errors import NotPrepared
from tracer.facts.readout import answer_text

if TYPE_CHECKING:
    from editing.questions.record import EditRecord
    from tracer.model import Model

ABOUT = ("paraphrase", "subject_alias")
APART = (*MEASURES["locality"], "attribute")


@dataclass(frozen=True)
class Lesson:
    """A record as SERAC sees it.

    Attributes:
        prompt: of the edit.
        target: with its leading space.
        about: questions that the edit answers: other wordings.
        apart: questions that it does not, by kind: neighbours, of which some share the answer; other facts.
    """

    prompt: str
    target: str
    about: tuple[str, ...]
    apart: tuple[tuple[str, str], ...]

    @property
    def questions(self) -> tuple[str, ...]:
        """All prompts: the edit's, those about it, and the others."""
        return (self.prompt, *self.about, *(prompt for _, prompt in self.apart))


def lessons_of(model: Model, records: Sequence[EditRecord]) -> list[Lesson]:
    """Lessons of records, one for each of their rewrites that has questions about it.

    Args:
        model: whose tokenizer says how a target is spaced.
        records: with paraphrases.

    Raises:
        TracerError: none of them has a paraphrase.
    """
    found = []
    for record in records:
        for case, request in enumerate(record.requests()):
            own = [question for question in record.asks if question.case == case or len(record.rewrites) == 1]
            about = tuple(question.prompt for question in own if question.kind in ABOUT)
            apart = tuple((question.kind, question.prompt) for question in own if question.kind in APART)
            target = answer_text(model, request.fact.align(model).target_ids)
            if about:
                found.append(Lesson(request.text, target, about, apart))
    if records and not found:
        raise NotPrepared(
            f"serac learns which questions are about an edit from paraphrases, and none of the {len(records)} records "
            "has one; give records with paraphrases"
        )
    return found
