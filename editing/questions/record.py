"""One record of an evaluation set, whatever its benchmark: the facts to write, and the questions asked afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from editing.request import EditRequest
from tracer.facts.encoding import check_whole

Kind = Literal[
    "rewrite",
    "paraphrase",
    "neighbour",
    "attribute",
    "same_subject",
    "distracting",
    "relation_specificity",
    "forgetfulness",
    "one_hop",
    "reverse_relation",
    "subject_alias",
    "logical_generalisation",
    "composition_one",
    "composition_two",
    "multi_hop",
    "single_hop",
    "condition",
]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Kinds of questions, in the order they are shown."""
MEASURES: dict[str, tuple[Kind, ...]] = {
    "reliability": ("rewrite",),
    "generalisation": ("paraphrase",),
    "locality": ("neighbour", "same_subject", "distracting", "relation_specificity", "forgetfulness"),
    "portability": (
        "one_hop",
        "reverse_relation",
        "subject_alias",
        "logical_generalisation",
        "composition_one",
        "composition_two",
        "multi_hop",
    ),
}
"""Kinds of evidence for each measure. Three kinds belong to no measure: "attribute" (of other subjects, for which the
new target is true), "single_hop" (the steps of a chain: facts that are written themselves, or that stay as they were)
and "condition" (facts that have to be known for other questions to count)."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=False)

    @field_validator("*", mode="before")
    @classmethod
    def _texts_are_whole(cls, value: Any, info: ValidationInfo) -> Any:
        for text in _texts(value):
            check_whole(text, str(info.field_name))
        return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


class Rewrite(_Frozen):
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


class Ask(_Frozen):
    """A question asked before and after the edit.

    Attributes:
        kind: what it is evidence of.
        prompt: the whole text, subject filled in.
        answers: the wanted answer: one tuple of accepted wordings per thing that has to be named, the usual wording
            first. Empty: the unedited model's answer.
        space: whether a space stands before the answers; None: as [`tracer.Fact`][] finds.
        against: the answer it is compared with: the old one where the edit should show, the new one where it should
            not; None: not known.
        either: questions of a record with the same number are wordings of one; one right answer is enough.
        needs: conditions that the unedited model has to answer rightly for this one to count: numbers of the record's
            questions of kind "condition", from 0; or prompts, each of which stands for all of them that ask it.
    """

    kind: Kind
    prompt: str = Field(min_length=1)
    answers: tuple[tuple[str, ...], ...] = ()
    space: bool | None = None
    against: str | None = None
    either: int | None = None
    needs: tuple[int | str, ...] = ()

    @property
    def answer(self) -> str | None:
        """The usual wording of the first thing to be named; None: the unedited model's answer."""
        return self.answers[0][0] if self.answers else None


class EditRecord(_Frozen):
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
    asks: tuple[Ask, ...] = ()
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

    def questions(self) -> tuple[Ask, ...]:
        """All questions, the rewrites first."""
        own = []
        for rewrite in self.rewrites:
            request = rewrite.request()
            new, true = request.target_new, request.target_true
            own.append(Ask(kind="rewrite", prompt=request.text, answers=((new,),), against=true, space=request.space))
        return (*own, *self.asks)
