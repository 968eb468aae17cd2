"""Questions framed by a chat model's template, and the question's place in a text that is framed so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import regex

from tracer.errors import ChatTemplateError, TracerError, out_of_memory

# texts put into the template to examine it: nothing that a template looks for, or changes
_FIRST, _REPLY, _SECOND = "Qfirstq", "Areplya", "Qsecondq"


@dataclass(frozen=True)
class Turn:
    """A text in a template, in parts: `head + said + tail` is the text.

    Attributes:
        head: up to where the user begins to speak for the last time.
        said: what the user says.
        tail: the end of the user's turn, the beginning of the reply, and the reply as far as it is given.
    """

    head: str
    said: str
    tail: str


@dataclass(frozen=True)
class Chat:
    """A tokenizer's chat template.

    Attributes:
        opener: the text before every question of a user.
        system: text that parts a system message from the question in one turn; "" where nothing could be told from it.
        after: the end of the user's turn and the beginning of the reply.
        space: whether there is a space before a reply; None: as it is written.
        end: the token that ends a reply; "" without one.
    """

    opener: str
    system: str
    after: str
    space: bool | None
    end: str

    @classmethod
    def of(cls, model: Any) -> Chat:
        """The template of a model, or of a tokenizer.

        Raises:
            TracerError: no template, or one that refuses a question or leaves it out.
        """
        tokenizer: Any = getattr(model, "tokenizer", model)
        before, after = _split(_rendered(tokenizer, [_FIRST]), _FIRST)
        try:
            replied, _ = _split(_split(_rendered(tokenizer, [_FIRST, _REPLY, _SECOND]), _FIRST)[1], _SECOND)
            begun, between = _split(replied, _REPLY)
        except TracerError:  # it takes a single question
            begun, between = after, ""
        marks = sorted({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}, key=len, reverse=True)
        pieces = regex.compile("|".join([*(regex.escape(mark) for mark in marks if mark.strip()), "."]), regex.DOTALL)
        opener = pieces.findall(before)
        behind = pieces.findall(between.lstrip())
        end = behind[0] if behind and behind[0] in marks else ""
        if behind:  # the questions after the first have no beginning of the text, nor its system message
            same = [one == two for one, two in zip(reversed(opener), reversed(behind), strict=False)]
            opener = opener[len(opener) - (same.index(False) if False in same else len(same)) :]
        if end and opener[:1] == [end]:
            opener = pieces.findall("".join(opener[1:]).lstrip())
        space = None if after[-1:].isspace() else begun[-1:].isspace()
        return cls("".join(opener), _between_system_and_question(tokenizer), after, space, end)

    def turn(self, text: str) -> Turn | None:
        """The last question of a text in the template; None for a text that is not in the template."""
        start = text.rfind(self.opener) + len(self.opener)
        if not self.opener.strip() or start < len(self.opener):
            return None
        stops = (self.after, self.after.split("\n")[0])  # some vary in what the reply should begin with
        stop = next((text.find(each, start) for each in stops if each.strip() and each in text[start:]), -1)
        if stop < 0:
            return None
        parted = text.find(self.system, start, stop) if self.system.strip() else -1
        start = start if parted < 0 else parted + len(self.system)
        return Turn(text[:start], text[start:stop], text[stop:])


def chat_of(model: Any) -> Chat | None:
    """The chat template of a model or a tokenizer; None without one that can be used."""
    try:
        return Chat.of(model)
    except TracerError:
        return None


def framed(model: Any, said: str, system: str | None = None) -> str:
    """A question in the chat template, as far as the reply begins.

    Raises:
        TracerError: as `Chat.of` does.
    """
    tokenizer: Any = getattr(model, "tokenizer", model)
    before, after = _split(_rendered(tokenizer, [_FIRST], system), _FIRST)
    return f"{before}{said.strip()}{after}"


def _rendered(tokenizer: Any, said: list[str], system: str | None = None) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ChatTemplateError(
            f"{type(tokenizer).__name__} has no chat template; ask without one, or set tokenizer.chat_template"
        )
    messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(said)]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template says in its own way what it refuses
        if out_of_memory(error):
            raise
        raise ChatTemplateError(
            f"the chat template refuses the question: {error}; leave out the system message"
        ) from error


def _split(text: str, part: str) -> tuple[str, str]:
    before, found, after = text.partition(part)
    if not found or part in after:
        raise ChatTemplateError(f"the chat template does not hold the question once; it makes {text[:60]!r} of it")
    return before, after


def _between_system_and_question(tokenizer: Any) -> str:
    try:
        return _split(_split(_rendered(tokenizer, [_FIRST], system=_SECOND), _SECOND)[1], _FIRST)[0]
    except TracerError:  # it knows no system message
        return ""
