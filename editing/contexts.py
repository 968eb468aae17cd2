"""Context templates: short texts put before a prompt, so that a key and a value hold in many contexts.

The published code samples them from the model. So does this, from an explicit seed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from tracer import TracerError
from tracer.hooks import as_ids, evaluating, keep_logits
from tracer.sweep import check_numbers
from tracer.tokens import SLOT

if TYPE_CHECKING:
    from tracer import Model

BARE = SLOT
STARTS = ("The", "Therefore", "Because", "I", "You")
TOP_K = 5
Templates = tuple[tuple[str, ...], ...]


def context_templates(model: Model, lengths: Sequence[tuple[int, int]], *, seed: int = 0) -> Templates:
    """Templates by kind: the bare prompt, then sampled prefixes, each a sentence of its own before the prompt.

    lengths: (tokens, how many) pairs; a prefix begins with one of five common words, which count among the tokens. Each
    further token is drawn from the five most probable (as the published code draws it). The same model and seed
    give the same templates.
    """
    generator = torch.Generator().manual_seed(seed)
    prefixes = [
        _clean(text)
        for tokens, count in lengths
        for place, start in enumerate(STARTS)
        for text in _sample(model, start, tokens, len(range(place, count, len(STARTS))), generator)
    ]
    sampled = tuple(f"{prefix}. {SLOT}" for prefix in prefixes)
    return ((BARE,), sampled) if sampled else ((BARE,),)


def as_templates(given: Sequence[str] | Sequence[Sequence[str]]) -> Templates:
    """Templates by kind, from a list of texts (the bare one is a kind by itself) or a list of such lists.

    Raises TracerError for a template that does not hold {} once, and unless the first is the bare "{}".
    """
    kinds: list[tuple[str, ...]] = []
    flat: list[str] = []
    for item in given:
        if isinstance(item, str):
            flat.append(item)
        else:
            kinds.append(tuple(item))
    if flat and kinds:
        raise TracerError("context templates are texts, or lists of texts; these are both")
    if flat:
        rest = tuple(text for text in flat[1:])
        kinds = [(flat[0],), rest] if rest else [(flat[0],)]
    kinds = [kind for kind in kinds if kind]
    for text in (text for kind in kinds for text in kind):
        if text.count(SLOT) != 1:
            raise TracerError(f"context template {text!r} holds {{}} {text.count(SLOT)} times; write it once")
    if not kinds or kinds[0][0] != BARE:
        raise TracerError('the first context template is the bare prompt, "{}"; put it there')
    return tuple(kinds)


def fill(template: str, prompt: str) -> str:
    """The prompt, with its own {} kept, in the place of the template's."""
    before, _, after = template.partition(SLOT)
    return f"{before}{prompt}{after}"


def _clean(text: str) -> str:
    """One line without braces and without closing marks."""
    text = re.sub(r"[{}]", " ", text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".!?,;: ")


def _sample(model: Model, start: str, tokens: int, count: int, generator: torch.Generator) -> list[str]:
    """``count`` texts of ``tokens`` tokens that begin with ``start``."""
    if count < 1:
        return []
    head = as_ids(model, model.tokenizer(start)["input_ids"])
    special = {i for i in model.tokenizer.all_special_ids if i is not None}
    words = sum(int(i) not in special for i in head[0])
    ids = head.expand(count, -1)
    if head[0, -1].item() in special:  # a closing mark would end the text
        ids = ids[:, :-1]
    banned = torch.tensor(sorted(special), dtype=torch.long)
    with torch.no_grad(), evaluating(model):
        handle = keep_logits(model, [-1])
        try:
            for _ in range(max(0, tokens - words)):
                logits = check_numbers(model, model.hf(input_ids=ids).logits[:, -1]).float().cpu()
                logits[:, banned] = -torch.inf
                top = logits.topk(min(TOP_K, logits.shape[-1]))
                drawn = torch.multinomial(top.values.softmax(-1), 1, generator=generator)
                ids = torch.cat([ids, top.indices.gather(-1, drawn).to(ids.device)], dim=1)
        finally:
            handle.remove()
    return [str(text) for text in model.tokenizer.batch_decode(ids, skip_special_tokens=True)]
