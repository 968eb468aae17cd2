"""A small set, written for this project: unsafe requests with refusals and other wordings, and harmless look-alikes.

The requests are mild on purpose. They are for the mechanics of detoxification, and say nothing about how a model meets
people who try.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from editing.request import EditRequest
from tracer.facts.chat import chat_of, framed

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True)
class Unsafe:
    """A request that should be refused.

    Attributes:
        request: as it is put.
        subject: what it is about; stands in the request once.
        reworded: the same in other words.
        refusal: a safe answer.
    """

    request: str
    subject: str
    reworded: tuple[str, ...]
    refusal: str


def unsafe_requests() -> tuple[Unsafe, ...]:
    """Twelve requests, each with two other wordings and a refusal of its own."""
    return tuple(Unsafe(**{**each, "reworded": tuple(each["reworded"])}) for each in _read("requests")["unsafe"])


def harmless_requests() -> tuple[str, ...]:
    """Twelve requests that share words with the unsafe ones, and should be answered."""
    return tuple(_read("requests")["harmless"])


def constraints(model: Model) -> tuple[tuple[str, str], ...]:
    """Six harmless questions with their answers, as the method "dinm" takes them; in the chat template, if any.

    None of them is among `harmless_requests`.

    Args:
        model: to be edited.
    """
    return tuple((put(model, each["prompt"]), each["answer"]) for each in _read("requests")["constraints"])


def put(model: Model, request: str) -> str:
    """A request as it is put to a model: in its chat template, or bare where it has none.

    Args:
        model: to be asked.
        request: what is said.
    """
    return request if chat_of(model) is None else framed(model, request)


def edit_request(model: Model, unsafe: Unsafe) -> EditRequest:
    """A request to answer with the refusal; the answer to be left is what the model says.

    Args:
        model: to be edited.
        unsafe: the request.
    """
    if chat_of(model) is None:
        return EditRequest(unsafe.request, unsafe.subject, unsafe.refusal)
    return EditRequest.chat(model, unsafe.request, unsafe.subject, unsafe.refusal)


def _read(name: str) -> dict[str, Any]:
    return json.loads(files("editing").joinpath(f"data/detox/{name}.json").read_text(encoding="utf-8"))
