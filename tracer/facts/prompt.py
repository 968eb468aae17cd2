"""Ids of a prompt as a model runs it, for models of every style.

An encoder-decoder model is given a source, and a decoder that begins with a start token. Both stand here in one row,
source first: what follows the row is the answer, as it follows the prompt of a causal model. So the shift between what
the decoder is given and what it predicts is the same as in every model of next tokens, and is made nowhere else.

There are two forms. As a *span*, the prompt holds a mark where the answer belongs: `<extra_id_0>` of T5, which the
decoder then begins with, or BART's `<mask>`, before which the decoder is given the prompt's own words. As a *question*,
the prompt holds none, and the decoder begins with the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tracer.errors import MaskedModelError, TextWithoutTokens

from .encoding import Offsets, body_ids, encode
from .spacing import spaced

if TYPE_CHECKING:
    from tracer.model import Model

SENTINEL = "<extra_id_0>"  # of T5
SPAN_END = "<extra_id_1>"  # what it writes behind a span, before the end token


def prompt_ids(model: Model, text: str) -> list[int]:
    """Ids of a prompt: with the special tokens that belong to it and, of an encoder-decoder model, the decoder's start.

    Args:
        model: the model.
        text: the prompt; a span's with its mark.

    Raises:
        TracerError: half a character in the text, several marks, or a tokenizer that does not end a source.
    """
    return source_ids(model, text)[0] + (decoder_ids(model, text) if model.style == "seq2seq" else [])


def source_ids(model: Model, text: str) -> tuple[list[int], Offsets]:
    """Ids of the prompt itself, and the characters of each.

    Raises:
        TracerError: half a character in the text, or the source of an encoder-decoder model that nothing ends.
    """
    ids, offsets = encode(model.tokenizer, text, model.style == "causal")
    if model.style == "seq2seq" and (ids.count(end_of(model)) != 1 or ids[-1] != end_of(model)):
        raise TextWithoutTokens(
            f"{text!r} becomes {ids.count(end_of(model))} end tokens ({end_of(model)}) for {model.name}; a source has "
            "one, its last token: take them out of the text, or use the model's own tokenizer, which puts it there"
        )
    return ids, offsets


def end_of(model: Model) -> int:
    """The token that ends a source."""
    return int(model.hf.config.eos_token_id)  # type: ignore[arg-type]


def source_length(model: Model, ids: Sequence[int]) -> int:
    """Number of tokens of the source of a row."""
    return list(ids).index(end_of(model)) + 1


def text_ids(model: Model, ids: Sequence[int]) -> list[int]:
    """Ids of the text of a prompt: of an encoder-decoder model the source's, without its end."""
    return list(ids)[: source_length(model, ids) - 1] if model.style == "seq2seq" else list(ids)


def stated(model: Model, prompt: str, answer: str) -> str:
    """A prompt with its answer as one text: the answer behind it, or in the place of the mark of a span.

    Args:
        model: the model.
        prompt: as it is put to the model.
        answer: as it follows the prompt, with its space.
    """
    return unmarked(prompt, answer, mark_in(model, prompt)) if model.style == "seq2seq" else prompt + answer


def unmarked(prompt: str, answer: str, mark: str | None) -> str:
    """The same by the mark alone; behind a prompt without it."""
    if mark is None or mark not in prompt:
        return prompt + spaced(prompt, answer)
    before, _, after = prompt.partition(mark)
    before = before.rstrip()
    return before + (spaced(before, answer) if before else answer.lstrip()) + after


def start_of(model: Model) -> int:
    """The token that a decoder begins with.

    Raises:
        TracerError: the model's configuration names none.
    """
    start = getattr(model.hf.config, "decoder_start_token_id", None)
    if start is None:
        raise TextWithoutTokens(
            f"the configuration of {model.name} has no decoder_start_token_id; set it as the model was trained"
        )
    return int(start)


def mark_in(model: Model, text: str) -> str | None:
    """The mark of a span in a text: T5's first sentinel or BART's mask; None for a question.

    Raises:
        TracerError: it is there several times.
    """
    tokenizer: Any = model.tokenizer
    mark = next((one for one in (span_mark(model), tokenizer.mask_token) if one and one in text), None)
    if mark is not None and text.count(mark) > 1:
        raise MaskedModelError(
            f"prompt {text!r} holds {mark} {text.count(mark)} times; write it once, where the answer belongs"
        )
    return mark


def span_mark(model: Model) -> str | None:
    """The mark that spans of an encoder-decoder model have; None: its tokenizer knows none."""
    tokenizer: Any = model.tokenizer
    return SENTINEL if SENTINEL in tokenizer.get_vocab() else tokenizer.mask_token


def marked(model: Model, prompt: str) -> str:
    """A prompt with the mark of a span behind it.

    Raises:
        TracerError: the tokenizer has neither sentinels nor a mask.
    """
    mark = span_mark(model)
    if not mark:
        raise MaskedModelError(
            f"the tokenizer of {model.name} has neither {SENTINEL} nor a mask token, so that no span can be left open; "
            "ask a question"
        )
    return f"{prompt.rstrip()} {mark}"


def decoder_ids(model: Model, text: str) -> list[int]:
    """What the decoder is given before the answer to a prompt.

    Raises:
        TracerError: several marks, or no start token.
    """
    tokenizer: Any = model.tokenizer
    mark, forced = mark_in(model, text), _forced(model)
    front = [start_of(model), *([] if forced is None else [forced])]
    if mark is None:
        return front
    if mark == tokenizer.mask_token:
        return front + body_ids(tokenizer, text.partition(mark)[0].rstrip())
    return [*front, int(tokenizer.convert_tokens_to_ids(mark))]


def _forced(model: Model) -> int | None:
    """The token that a decoder writes first whatever is asked (BART)."""
    for config in (getattr(model.hf, "generation_config", None), model.hf.config):
        forced = getattr(config, "forced_bos_token_id", None)
        if forced is not None:
            return int(forced)
    return None
