"""Positions at which a fact's answer is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .fact import Fact, token_text

if TYPE_CHECKING:
    from tracer.model import Model

    from .fact import Alignment


@dataclass(frozen=True)
class Readout:
    """A fact as it is run.

    Attributes:
        ids: the prompt and, where the target has several tokens, all of them but the last: each is read after those
            before it (a masked model reads each at its own mask, and its prompt is complete).
        read: positions whose logits predict the answer's tokens, k of them (one without a target).
        target: ids of the target, k of them; empty without one.
    """

    ids: tuple[int, ...]
    read: tuple[int, ...]
    target: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, alignment: Alignment) -> Readout:
        """The readout of an aligned fact."""
        target, first = alignment.target_ids, alignment.answer_position
        ids = (*alignment.input_ids, *(target[:-1] if model.causal else ()))
        return cls(ids, tuple(range(first, first + max(1, len(target)))), target)

    def answer(self, logits: Tensor) -> list[int]:
        """The answer that is measured: the target, or without one the most probable tokens by `logits` [k, V]."""
        return list(self.target) or logits.argmax(-1).tolist()


def as_fact(fact_or_prompt: Fact | str) -> Fact:
    """A bare prompt as a fact whose subject is the whole prompt, for methods that ask for no subject."""
    return Fact(fact_or_prompt, fact_or_prompt) if isinstance(fact_or_prompt, str) else fact_or_prompt


def answer_text(model: Model, ids: Sequence[int]) -> str:
    """Text of an answer, with the leading space that some tokenizers drop."""
    text = str(model.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
    first = token_text(model.tokenizer, ids[0])
    return f" {text}" if first.startswith(" ") and not text.startswith(" ") else text
