"""Prompts of a request: place of the subject's key, scored tokens and their places."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from editing.request import EditRequest
from tracer.engine.batch import Row
from tracer.errors import HyperparameterError
from tracer.facts.chat import chat_of
from tracer.facts.fact import Fact
from tracer.facts.prompt import mark_in
from tracer.facts.readout import Readout

from .context_templates import Templates, fill

if TYPE_CHECKING:
    from tracer.facts.fact import Alignment
    from tracer.model import Model

TOKENS = ("subject_last", "subject_first", "subject_first_after_last", "last")


def lookup(found: Alignment, token: str) -> int:
    """Place of the token that the published option `fact_token` names.

    Args:
        found: the aligned fact.
        token: the option's value.
    """
    start, end = found.subject_range
    last = len(found.input_ids) - 1
    if token == "subject_last":
        return end - 1
    if token == "subject_first":
        return start
    if token == "subject_first_after_last":
        return min(end, last)
    if token == "last":
        return last
    raise HyperparameterError(f"fact_token is {token!r}; expected one of {', '.join(TOKENS)}")


def rewriting_rows(model: Model, request: EditRequest, templates: Templates, token: str) -> list[Row]:
    """The request in every context, the bare one first, its target scored."""
    rows, chat = [], chat_of(model)
    for template in (text for kind in templates for text in kind):
        found = replace(request.fact, prompt=fill(template, request.prompt, chat)).align(model)
        readout = Readout.of(model, found)
        rows.append(Row(readout.ids, lookup(found, token), readout.read, readout.target))
    return rows


def essence_rows(model: Model, request: EditRequest, prompts: Sequence[str], token: str, at: str) -> list[Row]:
    """Prompts about the subject whose next token is to stay.

    Args:
        model: whose tokenizer is used.
        request: the fact to write.
        prompts: with {} for the subject.
        token: the edited token, see `lookup`.
        at: the next token is read at the subject ("subject", as published) or at the prompt's end ("last"). An
            encoder-decoder model fills a span behind the prompt, and is read there.
    """
    rows = []
    for prompt in prompts:
        open_span = model.stacks and mark_in(model, prompt) is None  # a decoder reads nothing at the subject
        asked = Fact.span(model, prompt, request.subject) if open_span else Fact(prompt, request.subject)
        found = asked.align(model)
        place = lookup(found, token)
        read = place if at == "subject" and not model.stacks else len(found.input_ids) - 1
        rows.append(Row(found.input_ids, place, (read,)))
    return rows
