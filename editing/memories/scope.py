"""The vector of a question, by which it is compared with edits: of the model's own states, or of an encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.engine.batch import Row, states_at_lookups
from tracer.errors import MemoryMisfit
from tracer.facts.prompt import prompt_ids, text_ids

from .small import Parts, encoder_of

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

OWN, ENCODER = "states", "encoder"
TOKENIZER = "classifier.tokenizer"


def vectors_of(parts: Parts, told: Mapping[str, Any], model: Model, prompts: Sequence[Ids]) -> Tensor:
    """Vectors of prompts, [prompts, width] on the CPU, each made by itself.

    Args:
        parts: tensors of the classifier, and what is made of them.
        told: what the header says of it.
        model: that is asked.
        prompts: ids.
    """
    if told["by"] == OWN:
        return torch.cat([projected(parts.tensors, states_of(model, [ids], told["layers"], 1)) for ids in prompts])
    return torch.cat([encoded(parts, told, model, text_of(model, ids)) for ids in prompts])


def states_of(model: Model, prompts: Sequence[Ids], layers: Sequence[int], max_rows: int | None = None) -> Tensor:
    """The hidden states at each prompt's last token, each of mean 0 and length sqrt(d), side by side; float32, CPU.

    Args:
        model: that is asked.
        prompts: ids.
        layers: whose states are taken, k of them: the result is [prompts, k d_model].
        max_rows: prompts in a forward; with 1 a prompt's states do not depend on the others.
    """
    rows = [Row(tuple(ids), len(ids) - 1, (len(ids) - 1,)) for ids in prompts]
    found = states_at_lookups(model, rows, [("hidden", layer) for layer in layers], max_rows=max_rows)
    width = (model.d_model,)
    return torch.cat([torch.layer_norm(found["hidden", layer].float().cpu(), width) for layer in layers], 1)


def projected(tensors: Mapping[str, Tensor], states: Tensor) -> Tensor:
    """Vectors [prompts, width] of states [prompts, k d_model]."""
    return ((states - tensors["centre"]) * tensors["factor"]) @ tensors["projection"].float().T


def encoded(parts: Parts, told: Mapping[str, Any], model: Model, text: str) -> Tensor:
    """The vector of a text by an encoder, [1, width]: its last hidden state at the first token."""
    tokenizer, encoder = encoder_of(parts, told, model)
    ids = torch.tensor([list(tokenizer(text)["input_ids"])])
    room = int(getattr(encoder.config, "max_position_embeddings", ids.shape[1]))
    if ids.shape[1] > room:
        raise MemoryMisfit(
            f"a question of {ids.shape[1]} tokens is too long for the classifier, which reads {room}; shorten it, or "
            "use a classifier on the model's own states"
        )
    with torch.no_grad():
        return encoder(input_ids=ids).last_hidden_state[:, 0].float()


def text_of(model: Model, prompt: Ids) -> str:
    """The text of a prompt, without what the tokenizer puts in front of every text or a decoder begins with."""
    from tracer.facts.encoding import added_ids

    front, body = added_ids(model.tokenizer)[0], text_ids(model, prompt)
    body = body[len(front) :] if front and body[: len(front)] == front else body
    return str(model.tokenizer.decode(body, clean_up_tokenization_spaces=False))


def question_of(model: Model, prompt: Ids) -> str:
    """The text of a prompt as it stands behind others: without the space that a tokenizer puts before every text.

    Args:
        model: whose tokenizer is used.
        prompt: ids.
    """
    text = text_of(model, prompt)
    shorter = text.removeprefix(" ")
    return shorter if prompt_ids(model, shorter) == list(prompt) else text


def context_of(told: Mapping[str, Any], separator: str, prompt: str, target: str) -> str:
    """The text by which an encoder knows an edit.

    Args:
        told: what the header says: "known_by" is "prompt", or as published "words": prompt and target less the last
            word, so that a target of several words leaks into it.
        separator: of the encoder.
        prompt: of the edit.
        target: with its leading space.
    """
    text = prompt if told["known_by"] == "prompt" else " ".join((prompt + target).split(" ")[:-1])
    return text + separator


def told_of(tokenizer: Any) -> tuple[Tensor, str]:
    """A fast tokenizer as bytes, and its separator."""
    rules = json.dumps(json.loads(tokenizer.backend_tokenizer.to_str()), sort_keys=True)
    separator = tokenizer.sep_token or tokenizer.eos_token or ""
    return torch.frombuffer(bytearray(rules.encode()), dtype=torch.uint8), separator
