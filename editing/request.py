"""Edit requests: a prompt about a subject, and the new target after it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracer.errors import ContradictingRequests, InvalidEditRequest, OneOfSeveral, TracerError
from tracer.facts.fact import SLOT, Fact
from tracer.facts.spacing import spaced
from tracer.text import plain


class EditWarning(UserWarning):
    """An edit that can be made, and may not do what was meant."""


@dataclass(frozen=True)
class EditRequest:
    """One fact to write: after `prompt` about `subject` the model should say `target_new`.

    Targets are kept as they follow the prompt: with one leading space, or without where there should not be one (as
    [`tracer.Fact`][] says: behind "1+1=", a prompt that ends in a space, Chinese, ...).

    Attributes:
        prompt: holds `{}` in place of the subject, or the subject itself, once; kept with `{}`.
        subject: kept without spaces around it.
        target_new: the answer to write.
        target_true: the answer that the model is to stop saying, where that is known.
        space: whether a space precedes the targets, where the texts do not tell.

    Raises:
        TracerError: as [`tracer.Fact`][] does, for an empty target, and for a new target that is the true one.
    """

    prompt: str
    subject: str
    target_new: str
    target_true: str | None = None
    space: bool | None = None

    def __post_init__(self) -> None:
        start, _ = Fact(self.prompt, self.subject).subject_span
        subject = self.subject.strip()
        if SLOT not in self.prompt:
            start += self.subject.index(subject)
            text = f"{self.prompt[:start]}{SLOT}{self.prompt[start + len(subject) :]}"
            object.__setattr__(self, "prompt", text)
        object.__setattr__(self, "subject", subject)
        text = self.text
        for name in ("target_new", "target_true"):
            target = getattr(self, name)
            if target is None and name == "target_true":
                continue
            if not isinstance(target, str) or not target.strip():
                raise InvalidEditRequest(f"{name} of {text!r} is {target!r}; write out what should follow the prompt")
            self.about(target)  # a bad target fails where the request is made
            object.__setattr__(self, name, self.after(text, target))
        if self.target_true is not None and plain(self.target_true) == plain(self.target_new):
            raise InvalidEditRequest(
                f"target_new and target_true of {text!r} are both {self.target_new.strip()!r}; "
                "an edit needs another new target"
            )

    @property
    def text(self) -> str:
        """The prompt with the subject filled in."""
        return self.about(None).text

    @property
    def fact(self) -> Fact:
        """The fact as it should be."""
        return self.about(self.target_new)

    def about(self, target: str | None) -> Fact:
        """The fact with another target.

        Args:
            target: the target; None: a fact without a target.
        """
        return Fact(self.prompt, self.subject, target, self.space)

    def after(self, prompt: str, target: str) -> str:
        """A target as it follows a prompt.

        Args:
            prompt: the request's own or another.
            target: the target.
        """
        return spaced(prompt, target.strip(), self.space if prompt == self.text else None)

    @classmethod
    def chat(
        cls,
        model: Any,
        prompt: str,
        subject: str,
        target_new: str,
        target_true: str | None = None,
        *,
        system: str | None = None,
    ) -> EditRequest:
        """A request whose prompt is put to a chat model in its template: see [`tracer.Fact.chat`][].

        Contexts of an edit are then put before the prompt inside the user's turn.

        Args:
            model: a chat model.
            prompt: the user's turn.
            subject: as it stands in the prompt.
            target_new: the answer to write.
            target_true: the answer to be replaced, where that is known.
            system: the system's turn, if any.
        """
        fact = Fact.chat(model, prompt, subject, system=system)
        return cls(fact.prompt, fact.subject, target_new, target_true, fact.space)

    @classmethod
    def of(cls, given: Any) -> EditRequest:
        """A request from a request, or from a mapping in one of the layouts in use.

        This project's field names; CounterFact and FactWorld records (`requested_rewrite`); ROME's request dicts
        (`target_new` a dict with `str`); EasyEdit's CounterFact and zsRE layouts (`prompt`, `subject`, `target_new`,
        `ground_truth`); MEND's zsRE layout (`src`, `subject`, `alt`, `answers`). `space` may stand beside them.

        Args:
            given: the request or mapping.

        Raises:
            TracerError: anything else; the message names the fields that are missing.
        """
        if isinstance(given, EditRequest):
            return given
        if not isinstance(given, Mapping):
            raise InvalidEditRequest(f"an edit request is an EditRequest or a mapping, got {type(given).__name__}")
        record = given.get("requested_rewrite", given)
        if not isinstance(record, Mapping):
            raise InvalidEditRequest(f"requested_rewrite should be a mapping, got {type(record).__name__}")
        prompt = record.get("prompt", record.get("src"))
        new = _string(record.get("target_new", record.get("alt")))
        true = _string(record.get("target_true", record.get("ground_truth", record.get("answers"))))
        found: dict[str, Any] = {"prompt": prompt, "subject": record.get("subject"), "target_new": new}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            has = ", ".join(map(str, record)) or "nothing"
            raise InvalidEditRequest(f"a request needs {', '.join(missing)}; this record has {has}")
        return cls(found["prompt"], found["subject"], found["target_new"], true, record.get("space"))


def as_requests(given: Any) -> tuple[EditRequest, ...]:
    """Requests from one request or record, or from an iterable of them.

    Args:
        given: the request, record or iterable.

    Raises:
        TracerError: nothing to edit, an invalid request (its place is named), or two requests that contradict each
            other (both are named).

    Warns:
        EditWarning: the same subject in two requests; the first two are named.
    """
    several: Iterable[Any] = [given] if isinstance(given, EditRequest | Mapping | str) else given
    if not isinstance(several, Iterable):
        raise InvalidEditRequest(f"expected an EditRequest, a record, or a list of them, got {type(given).__name__}")
    found = []
    for place, item in enumerate(several):
        try:
            found.append(EditRequest.of(item))
        except TracerError as error:
            raise OneOfSeveral(f"request {place}: {error}") from error
    check_together(found)
    return tuple(found)


def check_together(requests: Sequence[EditRequest]) -> None:
    """Check a batch of requests for contradictions.

    Args:
        requests: the batch.

    Raises:
        TracerError: an empty batch, or a contradiction in it.

    Warns:
        EditWarning: two requests share a subject.
    """
    if not requests:
        raise InvalidEditRequest("there is nothing to edit: the list of requests is empty; give at least one")
    texts: dict[str, int] = {}
    subjects: dict[str, int] = {}
    against: list[tuple[int, int]] = []
    shared: list[tuple[int, int]] = []
    for place, request in enumerate(requests):
        before = texts.setdefault(plain(request.text), place)
        if plain(requests[before].target_new) != plain(request.target_new):
            against.append((before, place))
        before = subjects.setdefault(plain(request.subject), place)
        if before != place:
            shared.append((before, place))
    if against:
        one, two = against[0]
        raise ContradictingRequests(
            f"requests {one} and {two} contradict each other: {requests[one].text!r} cannot end in both "
            f"{requests[one].target_new.strip()!r} and {requests[two].target_new.strip()!r}; leave one of them out"
            + _more(against, "; so do")
        )
    if shared:
        one, two = shared[0]
        warnings.warn(
            f"requests {one} and {two} share the subject {requests[two].subject!r}{_more(shared, ', as do')}: they "
            "write to nearly the same key, and may blur each other",
            EditWarning,
            stacklevel=3,
        )


def _more(pairs: Sequence[tuple[int, int]], joint: str) -> str:
    """Mention of all pairs but the first, or nothing."""
    named = ", ".join(f"{one} and {two}" for one, two in pairs[1:4])
    return f"{joint} {named}" + (f" and {len(pairs) - 4} more pairs" if pairs[4:] else "") if pairs[1:] else ""


def _string(value: Any) -> str | None:
    """Text of a target: a string, a dict with `str`, or the first of a list."""
    while isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        value = value.get("str") if isinstance(value, Mapping) else next(iter(value), None)
    return None if value is None else str(value)
