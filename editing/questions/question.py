"""One question to a model, asked before and after an edit: what it is evidence of, and the answers compared."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from editing.request import EditRequest
from tracer.errors import QuestionError
from tracer.facts.encoding import check_whole
from tracer.facts.fact import SLOT, Fact

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
NEW = (*MEASURES["reliability"], *MEASURES["generalisation"], *MEASURES["portability"])
"""Kinds whose answer the edit is to change; others keep theirs."""
GROUPS = {kind: kind.replace("_", " ") for kind in KINDS} | {
    "rewrite": "rewrite",
    "paraphrase": "paraphrases",
    "neighbour": "neighbours",
    "same_subject": "other facts of the subject",
}
"""Kinds in the order they are shown, and their plurals."""


class Checked(BaseModel):
    """Frozen fields by name, of whole texts alone."""

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


class Question(Checked):
    """A question asked before and after an edit, with the answers whose probabilities are compared.

    Attributes:
        kind: what it is evidence of, one of `KINDS`.
        prompt: the whole text, subject filled in.
        answers: the wanted answer: one tuple of accepted wordings per thing that has to be named, the usual wording
            first. Empty: the unedited model's answer.
        space: whether a space stands before the answers; None: as [`tracer.Fact`][] finds.
        against: the answer it is compared with: the old one where the edit should show, the new one where it should
            not; None: not known.
        either: questions of a record with the same number are wordings of one; one right answer is enough.
        needs: conditions that the unedited model has to answer rightly for this one to count: numbers of the record's
            questions of kind "condition", from 0; or prompts, each of which stands for all of them that ask it.
        case: number of the request that this belongs to, from 0. Records, whose questions are all of one case, do not
            store it.
    """

    kind: Kind
    prompt: str = Field(min_length=1)
    answers: tuple[tuple[str, ...], ...] = ()
    space: bool | None = None
    against: str | None = None
    either: int | None = None
    needs: tuple[int | str, ...] = ()
    case: int = Field(default=0, exclude=True)

    @classmethod
    def of(
        cls, kind: str, prompt: str, new: str, true: str | None = None, case: int = 0, space: bool | None = None
    ) -> Question:
        """A question by the target of an edit and the answer without it, whichever of them is wanted.

        Args:
            kind: see the class.
            prompt: see the class.
            new: the target of the edit that this belongs to.
            true: the answer without the edit (of a neighbour or another fact its own); None: not known.
            case: see the class.
            space: see the class.

        Raises:
            TracerError: an unknown kind, or a text that is empty.
        """
        if kind not in KINDS:
            raise QuestionError(f"the kind of a question is {kind!r}; expected one of {', '.join(KINDS)}")
        for name, text in (("prompt", prompt), ("new answer", new), ("true answer", true)):
            if text is None and name == "true answer":
                continue
            if not isinstance(text, str) or not text.strip():
                raise QuestionError(f"the {name} of a question is {text!r}; write it out")
            check_whole(text, name)
        wanted, other = (new, true) if kind in NEW else (true, new)
        answers = () if wanted is None else ((wanted,),)
        return cls(kind=kind, prompt=prompt, answers=answers, against=other, case=case, space=space)  # type: ignore[arg-type]

    @classmethod
    def about(cls, kind: str, prompt: str, request: EditRequest, true: str | None = None) -> Question:
        """Another prompt for the targets of a request (or its own).

        Args:
            kind: see the class.
            prompt: text with its subject filled in.
            request: with the targets.
            true: the true answer, where the request does not have it.
        """
        true = request.target_true or true
        space = request.space if prompt == request.text else None
        true = true and request.after(prompt, true)
        return cls.of(kind, prompt, request.after(prompt, request.target_new), true, space=space)

    @property
    def answer(self) -> str | None:
        """The usual wording of the first thing to be named; None: the unedited model's answer."""
        return self.answers[0][0] if self.answers else None

    @property
    def wants_new(self) -> bool:
        """Whether the edit is to change the answer: to `new`, where a neighbour and another fact keep `true`."""
        return self.kind in NEW

    @property
    def new(self) -> str | None:
        """The target of the edit that this belongs to."""
        return self.answer if self.wants_new else self.against

    @property
    def true(self) -> str | None:
        """The answer without the edit; None: not known."""
        return self.against if self.wants_new else self.answer

    @property
    def group(self) -> str:
        """The former name of `kind`."""
        warnings.warn("the group of a question is called kind now; use that name", DeprecationWarning, stacklevel=2)
        return self.kind

    def knowing(self, true: str | None) -> Question:
        """The same with the answer without the edit filled in.

        Args:
            true: the answer; None: it stays unknown.
        """
        if true is None:
            return self
        return self.model_copy(update={"against": true} if self.wants_new else {"answers": ((true,),)})

    def of_case(self, case: int) -> Question:
        """The same of another case.

        Args:
            case: number of the request.
        """
        return self.model_copy(update={"case": case})

    def fact(self, answer: str | None) -> Fact:
        """The prompt with one of the answers.

        Args:
            answer: `new` or `true`; None: without one.
        """
        return Fact(SLOT, self.prompt, answer, self.space)  # in the slot, so that a text with braces stays as it is
