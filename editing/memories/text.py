"""A text in front of the question: the edit as a sentence, with demonstrations of what is to be done with it or not."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from tracer.engine.acts import Asked, Ids
from tracer.errors import MemoryMisfit, PromptTooLong, TracerNote
from tracer.facts.prompt import prompt_ids

from .checks import check_parts
from .routed import RoutedKind
from .scope import question_of
from .small import Parts

if TYPE_CHECKING:
    from tracer.model import Model

    from .memory import Memory
    from .route import Decision

SLOTS = ("{fact}", "{question}")


class Text(RoutedKind):
    """Asks a template, with the text of the edit and the question in its slots, in the place of the question.

    Its lines have besides "text", the edit's sentence, and "front", demonstrations that are put in front, the most
    useful last; the first ones are left out where the context is too short for all. The header says `template`, which
    holds "{fact}" and ends in "{question}", and `reserve`, tokens that are left for the answer.
    """

    rewrites: ClassVar[bool] = True

    def ask(self, memory: Memory, model: Model, prompt: Ids, decision: Decision) -> Asked:
        """The template with as many demonstrations as there is room for.

        Raises:
            TracerError: it is too long without any.

        Warns:
            TracerNote: demonstrations are left out; once for each number of them.
        """
        line = self.lines_of(memory)[decision.entry]
        template, reserve = memory.header["template"], int(memory.header["reserve"])
        ids, used = fitting(model, template, line["text"], question_of(model, prompt), line["front"], reserve)
        if used < len(line["front"]):
            Parts.of(memory).make(("said", used), lambda: _said(memory.name, used, len(line["front"]), model))
        return Asked(ids)

    def check(self, memory: Memory, model: Model) -> None:
        """As of any kind with a router; also that the template has its slots, and each entry its text.

        Raises:
            TracerError: it does not; a masked model, which does not go on from a text.
        """
        check_parts(memory, ("keys", "about"), ("template", "reserve"))
        super().check(memory, model)
        template = memory.header["template"]
        if not isinstance(template, str) or not template.endswith(SLOTS[1]) or template.count(SLOTS[0]) != 1:
            raise MemoryMisfit(
                f"the template of the memory {memory.name!r} is {template!r}; expected a text with {{fact}} once that "
                "ends in {question}"
            )
        lines: Sequence[Mapping[str, Any]] = self.lines_of(memory)
        if any(not isinstance(line.get("text"), str) or not isinstance(line.get("front"), list) for line in lines):
            raise MemoryMisfit(f"an entry of the memory {memory.name!r} has no text; make it again")
        if not model.causal:
            raise MemoryMisfit(
                f"the memory {memory.name!r} puts texts in front of questions, which {model.name}, a masked model, "
                "does not go on from; use a model that predicts the next token"
            )


def filled(template: str, fact: str, question: str, front: Sequence[str] = ()) -> str:
    """A template with its slots filled, behind demonstrations."""
    return "".join(front) + template.removesuffix(SLOTS[1]).replace(SLOTS[0], fact) + question


def fitting(
    model: Model, template: str, fact: str, question: str, front: Sequence[str], reserve: int
) -> tuple[Ids, int]:
    """The ids of a template behind the most demonstrations that fit into the context, the last ones, and their number.

    Args:
        model: that reads it.
        template: with the slots {fact} and {question}.
        fact: text of an edit.
        question: that was asked.
        front: demonstrations.
        reserve: tokens to be left for the answer.

    Raises:
        TracerError: too long without any.
    """
    room = max(1, model.n_ctx - reserve)

    def ids_with(count: int) -> Ids:
        text = filled(template, fact, question, front[len(front) - count :])
        return tuple(prompt_ids(model, text))

    few, many, ids = 0, len(front), ids_with(len(front))
    if len(ids) <= room:
        return ids, many
    ids = ids_with(0)
    if len(ids) > model.n_ctx:
        raise PromptTooLong(
            f"the edit {fact!r} makes the prompt {len(ids)} tokens long, without any demonstration, and {model.name} "
            f"reads at most {model.n_ctx}; shorten the prompt, or the edit"
        )
    while few + 1 < many:  # longer with every demonstration
        middle = (few + many) // 2
        found = ids_with(middle)
        if len(found) <= room:
            few, ids = middle, found
        else:
            many = middle
    return ids, few


def _said(name: str, used: int, count: int, model: Model) -> bool:
    warnings.warn(
        f"the memory {name!r} puts {used} of {count} demonstrations in front of a question: {model.name} reads "
        f"{model.n_ctx} tokens",
        TracerNote,
        stacklevel=4,
    )
    return True
