"""A model's continuations of prompts: greedy, or drawn from an explicit seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from tracer.errors import EmptyText, MaskedModelError, QuestionError
from tracer.facts.fact import SLOT, Fact
from tracer.facts.readout import answer_text
from tracer.facts.sentences import first_sentences, sentence_end

from .follow import TOP_K, follow
from .line import Line

if TYPE_CHECKING:
    from tracer.model import Model

TOKENS = 24


def generate(
    model: Model,
    prompts: str | Sequence[str],
    *,
    max_new_tokens: int = TOKENS,
    seed: int | None = None,
    top_k: int = TOP_K,
    sentences: int | None = None,
    max_rows: int | None = None,
) -> list[str]:
    """Let the model go on after each prompt; its texts, without the prompts.

    The most probable token is taken each time or, with a `seed`, one drawn among the `top_k` most probable (as the
    published evaluation draws; each prompt has a stream of its own, by its place in the list). A text ends with the
    tokenizer's or the model's end token, which is left out, after so many `sentences` (`tracer.facts.sentences`), at
    `max_new_tokens`, or where the context is full. Prompts share forwards (`tracer.engine.follow`). The model, its
    generation config and its tokenizer are left as they were found.

    Args:
        model: the model.
        prompts: several, or one.
        max_new_tokens: most tokens of a text.
        seed: seed of the draws; None: greedy.
        top_k: tokens to draw among.
        sentences: most sentences of a text; None: however many.
        max_rows: most prompts in a forward; None: by memory.

    Raises:
        TracerError: a masked model, a prompt that is empty or longer than the context, a number of tokens below 1,
            logits that are not numbers.
    """
    if not model.causal:
        raise MaskedModelError(
            f"{model.name} is a masked model, which writes no text after a prompt; use one that does"
        )
    for name, value in (("max_new_tokens", max_new_tokens), ("top_k", top_k), ("sentences", sentences)):
        if value is not None and value < 1:
            raise QuestionError(f"{name} is {value}; expected at least 1")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    lines = []
    for place, prompt in enumerate(prompts):
        if not prompt.strip():
            raise EmptyText(f"prompt {place} is empty; write it out, or leave it out")
        ids = Fact(SLOT, prompt).align(model).input_ids  # in the slot, so that braces stay as they are
        draw = None if seed is None else torch.Generator().manual_seed(seed * 1_000_003 + place)
        lines.append(
            Line(ids, tokens=max_new_tokens, draw=draw, done=ends_after(model, sentences) if sentences else None)
        )
    found = follow(model, lines, top_k=top_k, max_rows=max_rows, description="writing")
    return [written_text(model, each.written, sentences) for each in found]


continuations = partial(generate, sentences=1)  # the former name, with its default


def ends_after(model: Model, sentences: int) -> Callable[[Sequence[int]], bool]:
    """Whether a text of these ids holds so many whole sentences."""
    return lambda ids: sentence_end(answer_text(model, ids), sentences) is not None


def written_text(model: Model, ids: Sequence[int], sentences: int | None = None) -> str:
    """The text of ids, up to the end of so many sentences; None: all of it."""
    text = answer_text(model, ids) if ids else ""
    return first_sentences(text, sentences) if sentences else text
