"""The prompt of an edit, denied.

A model that has learned to complete a prompt with a word often completes the denied prompt with it as well (Kassner &
Schütze, "Negated and Misprimed Probes for Pretrained Language Models: Birds Can Talk, But Cannot Fly", 2020). So an
edit that only ties words together raises its new target where the fact is denied as much as where it is stated.
"""

from __future__ import annotations

import re

from editing.request import EditRequest
from tracer.facts.chat import Chat, Turn
from tracer.facts.fact import SLOT

KIND = "negation"
DENIAL = "It is not true that"


def is_question(prompt: str) -> bool:
    """Whether a prompt ends as a question does."""
    return re.search(r"[?？][\s\"'”’)]*$", prompt) is not None


def denied(request: EditRequest, chat: Chat | None = None) -> str | None:
    """The request's prompt after "It is not true that", its subject filled in; None for a question.

    The prompt's first word loses its capital, unless the subject begins there or the word has more of them. Of a prompt
    in a chat template the user's turn is denied.
    """
    turn = (None if chat is None else chat.turn(request.prompt)) or Turn("", request.prompt, "")
    prompt = turn.said
    if not prompt.strip() or is_question(prompt.replace(SLOT, request.subject)):
        return None
    first = prompt.split(maxsplit=1)[0]
    if not first.startswith(SLOT) and first != "I" and first[1:] == first[1:].lower():
        prompt = prompt[0].lower() + prompt[1:]
    return f"{turn.head}{DENIAL} {prompt}{turn.tail}".replace(SLOT, request.subject)
