"""Unlearning as an edit: after the prompt the model is to refuse, or to say nothing, in place of the answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from editing.questions.record import EditRecord, listed
from editing.request import EditRequest
from tracer.errors import InvalidEditRequest

REFUSAL = "I do not know"
EMPTY = "."


def refusals(forget: Any, answer: str = REFUSAL) -> tuple[EditRequest, ...]:
    """Requests after which a method of editing writes a refusal in the place of what is to be forgotten.

    With ROME or MEMIT this is the empty response of Patil et al. 2024; one that is really empty is the full stop that
    ends the sentence at once (`answer=editing.unlearning.EMPTY`). To a method it is an answer like any other: whether
    the old one is gone, [`editing.attack.attack`][] tells.

    Args:
        forget: what [`editing.unlearning.unlearn`][] takes, without texts: requests and records whose targets are to be
            forgotten, or one of either.
        answer: the refusal.

    Raises:
        TracerError: nothing to forget, an empty refusal, one that is what is to be forgotten.
    """
    found: list[EditRequest] = []
    for item in listed(forget):
        requests = item.requests() if isinstance(item, EditRecord) else (EditRequest.of(item),)
        found += [replace(each, target_new=answer, target_true=each.target_new) for each in requests]
    if not found:
        raise InvalidEditRequest("there is nothing to forget; give at least one request")
    return tuple(found)
