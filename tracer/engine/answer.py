"""The model's own answer, and whether it is the fact's."""

from __future__ import annotations

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
    readout = Readout.of(model, as_fact(fact).align(model))
    as_ids(model, readout.ids)  # it fits
    target = readout.target or (0,)  # any token: what is most probable there is asked
    prompt = readout.ids[: readout.read[0] + 1] if model.causal else readout.ids
    (found,) = follow(model, [Line(prompt, (target,), first=readout.read[0])])
    return found.best[0].tolist()


def knows(model: Model, fact: Fact) -> bool:
    """Whether the model, read greedily, gives the fact's target; a fact without a target is known."""
    return fact.target is None or tuple(own_answer(model, fact)) == fact.align(model).target_ids
