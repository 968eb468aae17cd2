"""The model's own answer, and whether it is the fact's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracer.facts.fact import Fact
from tracer.facts.readout import Readout, as_fact

from .follow import follow
from .hooks import as_ids
from .line import Line

if TYPE_CHECKING:
    from tracer.model import Model


def own_answer(model: Model, fact: Fact | str) -> list[int]:
    """The most probable token at each position where the fact's answer is read.

    Raises:
        TracerError: logits that are not numbers.
    """
    return own_answers(model, [as_fact(fact)])[0]


def own_answers(model: Model, facts: Sequence[Fact], *, max_rows: int | None = None) -> list[list[int]]:
    """`own_answer` of many facts, those of similar length in one forward.

    Args:
        model: to ask.
        facts: with or without targets.
        max_rows: most rows in a forward; None: by memory.

    Raises:
        TracerError: a fact that cannot be aligned; logits that are not numbers.
    """
    lines = []
    for readout in (Readout.of(model, fact.align(model)) for fact in facts):
        first = readout.read[0]
        as_ids(model, readout.ids)  # it fits
        prompt = readout.ids[: first + 1] if model.causal else readout.ids
        lines.append(Line(prompt, (readout.target or (0,),), first=first))  # any token will do to read what is best
    return [line.best[0].tolist() for line in follow(model, lines, max_rows=max_rows)]


def knows(model: Model, fact: Fact) -> bool:
    """Whether the model, read greedily, gives the fact's target; a fact without a target is known."""
    return fact.target is None or tuple(own_answer(model, fact)) == fact.align(model).target_ids
