"""One record of an evaluation set, whatever its benchmark: the facts to write, and the questions asked afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, model_validator

from editing.request import EditRequest
from tracer.moved import former

from .question import Checked, Question

__getattr__ = former(__name__, {"Ask": Question})


class Rewrite(Checked):
    """One fact to write.

    Attributes:
        prompt: with `{}` in place of the subject.
        subject: of the fact.
        target_new: the answer to write.
        target_true: the answer to be replaced; None: not known.
        relation: name of the relation in its benchmark.
        question: the same as a question, where the benchmark has one.
        space: whether a space stands before the targets; None: as [`tracer.Fact`][] finds.
    """

    prompt: str = Field(min_length=1)
    subject: str = Field(min_length=1)
    target_new: str = Field(min_length=1)
    target_true: str | None = None
    relation: str | None = None
    question: str | None = None
    space: bool | None = None

    def request(self) -> EditRequest:
        """The rewrite as an [`editing.EditRequest`][].

        Raises:
            TracerError: as `EditRequest` does.
        """
        return EditRequest(self.prompt, self.subject, self.target_new, self.target_true, self.space)


class EditRecord(Checked):
    """One case of a benchmark.

    Attributes:
        case_id: unique in its set.
        source: the set: "counterfact", "zsre", "factworld", ...
        rewrites: the facts to write, at least one (MQuAKE has several).
        asks: questions beside the rewrites themselves, which are always asked.
        generate: prompts that are continued, for fluency and consistency.
        references: texts that describe a subject for which the new target is true, for consistency.
        essence: texts about the subject itself, for essence perplexity.
    """

    case_id: str = Field(min_length=1)
    source: str
    rewrites: tuple[Rewrite, ...] = Field(min_length=1)
    asks: tuple[Question, ...] = ()
    generate: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    essence: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _conditions_are_asked(self) -> EditRecord:
        asked = [one.prompt for one in self.asks if one.kind == "condition"]
        known = {*asked, *range(len(asked))}
        for one in self.asks:
            for need in one.needs:
                if need not in known:
                    raise ValueError(f"{one.prompt!r} needs {need!r}, which is no question of kind 'condition'")
        return self

    def requests(self) -> tuple[EditRequest, ...]:
        """The rewrites as edit requests."""
        return tuple(rewrite.request() for rewrite in self.rewrites)

    def questions(self) -> tuple[Question, ...]:
        """All questions, the rewrites first."""
        return (*(Question.about("rewrite", request.text, request) for request in self.requests()), *self.asks)


def listed(items: Any) -> list[Any]:
    """Several things, or one alone, as a list.

    Args:
        items: texts, requests, records or mappings, or one of these.
    """
    if isinstance(items, str | Mapping | EditRequest | EditRecord):
        return [items]
    return list(items) if isinstance(items, Iterable) else [items]
