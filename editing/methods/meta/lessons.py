"""What records teach an editor: wordings of an edit with their target, and questions whose answers are to stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.engine.batch import Row
from tracer.facts.fact import SLOT, Fact
from tracer.facts.readout import Readout

if TYPE_CHECKING:
    from tracer.model import Model


def line_of(model: Model, prompt: str, target: str | None = None) -> Row:
    """A prompt with its target as a row; without one the prompt's own last place is read.

    Args:
        model: whose tokenizer is used.
        prompt: the whole text.
        target: what is to follow.

    Raises:
        TracerError: as [`tracer.Fact.align`][] does.
    """
    found = Fact(SLOT, prompt, target).align(model)
    readout = Readout.of(model, found)
    return Row(readout.ids, found.answer_position, readout.read, readout.target)
