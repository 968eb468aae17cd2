"""Context templates: short texts put before a prompt, so that a key and a value hold in many contexts.

The published code samples them from the model. So does this, from an explicit seed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import torch

from tracer.engine.follow import follow
from tracer.engine.line import Line
from tracer.errors import ContextTemplateError
from tracer.facts.chat import Chat
from tracer.facts.encoding import body_ids, encode
from tracer.facts.fact import SLOT
from tracer.factworld.plain import sentence

if TYPE_CHECKING:
    from tracer.model import Model

BARE = SLOT
STARTS = ("The", "Therefore", "Because", "I", "You")
TOP_K = 5
MOST = 10_000  # prefixes that are drawn apart from one another with every seed
Templates = tuple[tuple[str, ...], ...]


def context_templates(model: Model, lengths: Sequence[tuple[int, int]], *, seed: int = 0) -> Templates:
    """Templates by kind: the bare prompt, then sampled prefixes, each a sentence of its own before the prompt.

    A prefix begins with one of five common words, which count among the tokens. Each further token is drawn from the
    five most probable (as the published code draws it); a prefix that the model ends is shorter. The same model and
    seed give the same templates. An encoder-decoder model does not go on after a text; its prefixes are the beginnings
    of plain sentences (`tracer.factworld.plain`).

    Args:
        model: samples the prefixes.
        lengths: (tokens, how many) pairs.
        seed: of the draws.
    """
    if model.style == "seq2seq":
        return _from_sentences(model, lengths, seed)
    tokenizer: Any = model.tokenizer
    special = set(tokenizer.all_special_ids)
    starts = [
        (start, tokens)
        for tokens, count in lengths
        for place, start in enumerate(STARTS)
        for _ in range(place, count, len(STARTS))
    ]
    lines = []
    for place, (start, tokens) in enumerate(starts):
        head, _ = encode(tokenizer, start, model.causal)
        words = sum(token not in special for token in head)
        draw = torch.Generator().manual_seed(seed * MOST + place)
        lines.append(Line(tuple(head), tokens=max(0, tokens - words), draw=draw))
    written = follow(model, lines, top_k=TOP_K, description="contexts")
    texts = [
        tokenizer.decode([*line.ids, *own.written], skip_special_tokens=True)
        for line, own in zip(lines, written, strict=True)
    ]
    prefixes = [_clean(str(text)) for text in texts]
    sampled = tuple(f"{prefix}. {SLOT}" for prefix in prefixes)
    return ((BARE,), sampled) if sampled else ((BARE,),)


def _from_sentences(model: Model, lengths: Sequence[tuple[int, int]], seed: int) -> Templates:
    rng, prefixes = Random(seed), list[str]()
    for tokens, count in lengths:
        for _ in range(count):
            ids = body_ids(model.tokenizer, sentence(rng))[:tokens]
            prefixes.append(_clean(str(model.tokenizer.decode(ids, skip_special_tokens=True))))
    sampled = tuple(f"{prefix}. {SLOT}" for prefix in prefixes)
    return ((BARE,), sampled) if sampled else ((BARE,),)


def as_templates(given: Sequence[str] | Sequence[Sequence[str]]) -> Templates:
    """Templates by kind, from a list of texts (the bare one is a kind by itself) or a list of such lists.

    Args:
        given: the texts, each with {}.

    Raises:
        TracerError: a template that does not hold {} once; the first is not the bare "{}".
    """
    kinds: list[tuple[str, ...]] = []
    flat: list[str] = []
    for item in given:
        if isinstance(item, str):
            flat.append(item)
        else:
            kinds.append(tuple(item))
    if flat and kinds:
        raise ContextTemplateError("context templates are texts, or lists of texts; these are both")
    if flat:
        rest = tuple(text for text in flat[1:])
        kinds = [(flat[0],), rest] if rest else [(flat[0],)]
    kinds = [kind for kind in kinds if kind]
    for text in (text for kind in kinds for text in kind):
        if text.count(SLOT) != 1:
            raise ContextTemplateError(f"context template {text!r} holds {{}} {text.count(SLOT)} times; write it once")
    if not kinds or kinds[0][0] != BARE:
        raise ContextTemplateError('the first context template is the bare prompt, "{}"; put it there')
    return tuple(kinds)


def fill(template: str, prompt: str, chat: Chat | None = None) -> str:
    """The prompt, with its own {} kept, in the place of the template's.

    Args:
        template: holds {} once.
        prompt: holds {} for the subject.
        chat: of a prompt in a chat template, the template is filled inside the user's turn.
    """
    before, _, after = template.partition(SLOT)
    turn = None if chat is None else chat.turn(prompt)
    if turn is None:
        return f"{before}{prompt}{after}"
    return f"{turn.head}{before}{turn.said}{after}{turn.tail}"


def _clean(text: str) -> str:
    """One line without braces and without closing marks."""
    text = re.sub(r"[{}]", " ", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".!?,;: ")
