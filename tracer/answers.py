"""Where a fact's answer is read, what the model answers, and whether that is what the fact says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .hooks import as_ids, evaluating, keep_logits
from .sweep import check_numbers
from .tokens import Fact, token_text

if TYPE_CHECKING:
    from .model import Model
    from .tokens import Alignment


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
        """The answer that is measured: the target, or without one what ``logits`` [k, V] find most probable."""
        return list(self.target) or logits.argmax(-1).tolist()


def as_fact(fact_or_prompt: Fact | str) -> Fact:
    """A bare prompt as a fact whose subject is the whole prompt, for methods that ask for no subject."""
    return Fact(fact_or_prompt, fact_or_prompt) if isinstance(fact_or_prompt, str) else fact_or_prompt


def answer_text(model: Model, ids: Sequence[int]) -> str:
    """Text of an answer, with the leading space that some tokenizers drop."""
    text = str(model.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))
    first = token_text(model.tokenizer, ids[0])
    return f" {text}" if first.startswith(" ") and not text.startswith(" ") else text


def own_answer(model: Model, fact: Fact | str) -> list[int]:
    """What the model finds most probable at each position where the fact's answer is read.

    Raises TracerError for logits that are not numbers.
    """
    readout = Readout.of(model, as_fact(fact).align(model))
    with torch.no_grad(), evaluating(model):
        handle = keep_logits(model, readout.read)
        try:
            logits = model.hf(input_ids=as_ids(model, readout.ids)).logits[0]
            return check_numbers(model, logits).argmax(-1).tolist()
        finally:
            handle.remove()


def knows(model: Model, fact: Fact) -> bool:
    """Whether the model, read greedily, gives the fact's target; a fact without a target is known."""
    return fact.target is None or tuple(own_answer(model, fact)) == fact.align(model).target_ids
