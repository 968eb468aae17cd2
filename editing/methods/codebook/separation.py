"""Where a key tells a question from others, and how far the same question may be from itself, measured on the model.

What an edit is to act on is not known when it is made; there is the request alone. The same question is the request's
prompt behind other text, another one is the prompt about another subject, of random tokens. A layer separates the two
by the ratio of their median distances, and half the way between these, in ratio, is the radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.memories.placement import key_tokens
from editing.methods.value.context_templates import fill
from tracer.engine.batch import Row, states_at_lookups
from tracer.engine.memories import resting
from tracer.engine.prompt_states import prompt_states
from tracer.facts.chat import chat_of
from tracer.facts.encoding import body_ids
from tracer.model.soundness import PASSAGE

if TYPE_CHECKING:
    from editing.methods.context import EditContext
    from editing.request import EditRequest
    from tracer.engine.acts import Ids
    from tracer.model import Model

LENGTHS = ((5, 5), (10, 5))  # tokens of a context, how many
OTHERS = 10  # subjects
NEARLY = 0.8  # of the highest ratio: layers that are about as good


@dataclass(frozen=True)
class Separation:
    """Distances from a request's key, in lengths of that key.

    Attributes:
        same: median distance of the same question behind other texts.
        other: median distance of the question about other subjects.
    """

    same: float
    other: float

    @property
    def ratio(self) -> float:
        """How much farther other questions are; below 1 they are nearer, and no radius tells them apart."""
        return self.other / max(self.same, 1e-12)

    @property
    def radius(self) -> float:
        """Geometric mean of the two, in lengths of the key."""
        return (self.other * self.same) ** 0.5


def separations(
    request: EditRequest, kind: str, layers: Sequence[int], key_token: str, seed: int, context: EditContext
) -> dict[int, Separation]:
    """The separation of a request's key at some layers; measured once per weights and request.

    Args:
        request: whose prompt and subject are meant.
        kind: of the site whose state is the key.
        layers: of the site.
        key_token: as of [`editing.memories.placement.key_tokens`][].
        seed: of contexts and subjects.
        context: serves contexts, and remembers.
    """
    texts = context.templates(LENGTHS, seed)[1] if context.model.causal else ()

    def make(model: Model) -> dict[int, Separation]:
        prompts = _prompts(model, request, seed, texts)
        states = _states(model, prompts, [(kind, layer) for layer in layers], key_token)
        return {layer: _separation(states[kind, layer].float().cpu(), len(prompts) - OTHERS) for layer in layers}

    key = (request.prompt, request.subject, request.space, kind, tuple(layers), key_token, seed)
    return context.measure("separation", key, make)


def best_layer(measured: Sequence[dict[int, Separation]]) -> tuple[int, str]:
    """The last layer that separates nearly as well as the best; and a remark if that does not separate, or "".

    Nearly: four fifths of the highest median ratio over requests. One request leaves the order of layers that are about
    as good to chance, and what is read late and written late can say any target.

    Args:
        measured: of each request, by layer.
    """
    ratios = {layer: float(torch.tensor([one[layer].ratio for one in measured]).median()) for layer in measured[0]}
    best = max(layer for layer in ratios if ratios[layer] >= NEARLY * max(ratios.values()))
    if ratios[best] > 1:
        return best, ""
    return best, (
        f"keys of no layer can tell the question from one about another subject ({ratios[best]:.2g} times as far away "
        f"at layer {best}); it will act on these too"
    )


def _separation(states: Tensor, same: int) -> Separation:
    """Of states whose first is the key; the next ones up to `same` are those of the same question."""
    distances = (states[1:] - states[0]).norm(dim=1) / states[0].norm()
    return Separation(float(distances[: same - 1].median()), float(distances[same - 1 :].median()))


def _prompts(model: Model, request: EditRequest, seed: int, texts: Sequence[str]) -> list[Ids]:
    """The prompt, it behind other texts, and it about other subjects."""
    ids = tuple(request.fact.align(model).input_ids)
    start, stop = request.fact.align(model).subject_range
    draw = torch.Generator().manual_seed(seed)
    special = set(model.tokenizer.all_special_ids)
    known = [i for i in range(min(len(model.tokenizer), model.n_tokens)) if i not in special]
    subjects = [[known[i] for i in torch.randint(len(known), (stop - start,), generator=draw)] for _ in range(OTHERS)]
    return [ids, *_behind(model, request, ids, texts), *((*ids[:start], *s, *ids[stop:]) for s in subjects)]


def _behind(model: Model, request: EditRequest, ids: Ids, texts: Sequence[str]) -> list[Ids]:
    """The prompt behind texts that the model wrote; a masked model writes none, and gets pieces of a passage."""
    if model.causal:
        chat = chat_of(model)
        facts = [replace(request.fact, prompt=fill(text, request.prompt, chat)) for text in texts]
        return [tuple(fact.align(model).input_ids) for fact in facts]
    lead = next((i for i, token in enumerate(ids) if token not in model.tokenizer.all_special_ids), 0)
    passage, length = body_ids(model.tokenizer, PASSAGE), min(10, model.n_ctx - len(ids))
    starts = range(0, len(passage) - length, max(1, (len(passage) - length) // OTHERS))
    return [(*ids[:lead], *passage[start : start + length], *ids[lead:]) for start in starts][:OTHERS]


def _states(
    model: Model, prompts: Sequence[Ids], places: Sequence[tuple[str, int]], key_token: str
) -> dict[tuple[str, int], Tensor]:
    tokens = key_tokens(model, prompts, key_token)
    with resting(model):
        if not model.causal:  # which sees the padding
            return prompt_states(model, prompts, places, tokens)
        rows = [Row(prompt, token, (token,)) for prompt, token in zip(prompts, tokens, strict=True)]
        return states_at_lookups(model, rows, places)
