"""RECIPE's nets: heads on pooled states, the sentinel, and the maker of soft prompts.

Chen et al. 2024, "Lifelong Knowledge Editing for LLMs with Retrieval-Augmented Continuous Prompt Learning".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from tracer.engine.acts import Ids
from tracer.engine.forward import Stop
from tracer.engine.frame import Frame, attach, evaluating
from tracer.engine.memories import forward, resting
from tracer.errors import PromptTooLong

from .routing.heads import head
from .small import Parts, built

if TYPE_CHECKING:
    from tracer.model import Model

KNOWLEDGE, QUERY, MAKER, SENTINEL = "knowledge", "query", "maker", "sentinel"
SHIFT = 2  # an encoder's ids are those of the model's tokenizer, behind a start and a padding of its own
PAD = 1
_FAR = 999_999.0


def pooled(first: Tensor, states: Tensor, real: Tensor) -> Tensor:
    """A state and the mean, greatest and least of all, side by side, [rows, 4 width].

    Args:
        first: [rows, width]; of an encoder what its pooler gives, of a language model the last token's state.
        states: [rows, tokens, width].
        real: [rows, tokens] bool, which of them are no padding.
    """
    keep = real.unsqueeze(-1)
    mean = (states * keep).sum(1) / keep.sum(1)
    most = states.masked_fill(~keep, -_FAR).amax(1)
    least = states.masked_fill(~keep, _FAR).amin(1)
    return torch.cat([first, mean, most, least], -1)


def represented(tensors: Mapping[str, Tensor], side: str, pool: Tensor) -> Tensor:
    """Representations [rows, rep] of pooled states by a head: a linear map, and a branch that is added to it.

    Args:
        tensors: of the nets.
        side: `KNOWLEDGE` or `QUERY`.
        pool: [rows, 4 width].
    """
    return head(tensors, side, pool)


def prompts_of(tensors: Mapping[str, Tensor], knowledge: Tensor) -> Tensor:
    """Soft prompts [rows, prompt tokens * d] of representations of knowledge [rows, rep].

    Args:
        tensors: of the nets.
        knowledge: representations.
    """
    inner = knowledge + relu(linear(knowledge, tensors[f"{MAKER}.hidden.weight"], tensors[f"{MAKER}.hidden.bias"]))
    return linear(inner, tensors[f"{MAKER}.out.weight"], tensors[f"{MAKER}.out.bias"])


def similarities(queries: Tensor, knowledge: Tensor) -> Tensor:
    """Scaled dot products [queries, entries]; an entry is retrieved if it beats the sentinel.

    Args:
        queries: [queries, rep].
        knowledge: [entries, rep].
    """
    return queries @ knowledge.T / queries.shape[-1] ** 0.5


def pool_of(encoder: Any, ids: Tensor, real: Tensor) -> Tensor:
    """Pooled states [rows, 4 width] of texts by an encoder with a pooler.

    Args:
        encoder: a RoBERTa of transformers.
        ids: [rows, tokens], the encoder's own.
        real: [rows, tokens] bool.
    """
    found = encoder(input_ids=ids, attention_mask=real.long())
    return pooled(found.pooler_output, found.last_hidden_state, real)


def sentinel_pool(tensors: Mapping[str, Tensor], encoder: Any | None) -> Tensor:
    """Pooled states [1, 4 width] of the sentinel, through the knowledge head entry 0 of the memory.

    Its tokens go straight into an encoder's blocks: no word, no position, no norm. Without an encoder they stand for
    states themselves.

    Args:
        tensors: of the nets.
        encoder: a RoBERTa of transformers; None: pooled are states of the language model.
    """
    tokens = tensors[SENTINEL].unsqueeze(0)
    first = tokens[:, -1]
    if encoder is not None:
        tokens = encoder.encoder(tokens).last_hidden_state
        first = encoder.pooler(tokens)
    return pooled(first, tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device))


# --- texts -----------------------------------------------------------------------------------------------------------
ENCODER, STATES = "encoder", "states"


def encoder_in(parts: Parts, told: Mapping[str, Any]) -> Any | None:
    """The encoder that is among tensors; None: there is none, the model's own states are read.

    Args:
        parts: tensors of the nets, those of the encoder under "encoder/".
        told: what a header says of it: "by", and the "config" of an encoder.
    """
    if told["by"] != ENCODER:
        return None
    from transformers import AutoModel

    return parts.make("soft encoder", lambda: built(AutoModel, told["config"], parts.under("encoder/")))


def representations(parts: Parts, told: Mapping[str, Any], model: Model, side: str, texts: Sequence[Ids]) -> Tensor:
    """Representations [texts, rep] by a head, on the CPU; each text is read by itself.

    Args:
        parts: tensors of the nets.
        told: as of `encoder_in`; of states, "layers" are the blocks behind which they are read.
        model: that is asked.
        side: `KNOWLEDGE` or `QUERY`.
        texts: ids of the model.

    Raises:
        TracerError: a text that is too long for the encoder.
    """
    encoder = encoder_in(parts, told)
    tensors = {name: tensor.float() for name, tensor in parts.tensors.items() if name.startswith(side)}
    pools = []
    for ids in texts:
        if encoder is None:
            pools.append(own_pool(model, torch.tensor([ids]), torch.ones(1, len(ids)).bool(), told["layers"]).cpu())
            continue
        room = int(encoder.config.max_position_embeddings) - PAD - 1
        if len(ids) > room:
            raise PromptTooLong(
                f"a text of {len(ids)} tokens is too long for RECIPE's encoder, which reads {room}; shorten it, or "
                "prepare with reads='states'"
            )
        shifted = torch.tensor([ids]) + SHIFT
        pools.append(pool_of(encoder, shifted, torch.ones_like(shifted, dtype=torch.bool)))
    with torch.no_grad():
        return represented(tensors, side, torch.cat(pools))


def own_pool(model: Model, ids: Tensor, real: Tensor, layers: Sequence[int]) -> Tensor:
    """Pooled states [rows, 4 d layers] of texts behind blocks of the model; each state of mean 0 and length sqrt(d).

    Args:
        model: that is asked, its memories at rest.
        ids: [rows, tokens], filled up on the right.
        real: [rows, tokens] bool.
        layers: of the blocks.
    """
    found: dict[int, Tensor] = {}
    frame = Frame(ids.shape[1])

    def keep(layer: int) -> Callable[[Tensor], None]:
        def edit(state: Tensor) -> None:
            found[layer] = torch.layer_norm(state.float(), (state.shape[-1],))
            if layer == max(layers):
                raise Stop

        return edit

    with ExitStack() as stack:
        for context in (resting(model), torch.no_grad(), evaluating(model)):
            stack.enter_context(context)
        for layer in layers:
            stack.callback(attach(model, "hidden", layer, keep(layer), frame).remove)
        with suppress(Stop):
            forward(model, ids.to(model.device), frame, use_cache=False)
    states = torch.cat([found[layer] for layer in layers], -1)
    real = real.to(states.device)
    last = real.sum(1) - 1
    return pooled(states[torch.arange(len(states), device=states.device), last], states, real)


def sentinel_of(parts: Parts, told: Mapping[str, Any]) -> Tensor:
    """The sentinel's representation [1, rep].

    Args:
        parts: tensors of the nets.
        told: as of `encoder_in`.
    """
    tensors = {name: tensor.float() for name, tensor in parts.tensors.items() if name.startswith((KNOWLEDGE, SENTINEL))}
    with torch.no_grad():
        return represented(tensors, KNOWLEDGE, sentinel_pool(tensors, encoder_in(parts, told)))
