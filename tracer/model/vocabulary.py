"""Token ids and the rows of the word embedding: a tokenizer may know more tokens than the model it came with."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import TracerError, TracerNote

if TYPE_CHECKING:
    from .model import Model


def rows(model: Model) -> int:
    """How many tokens the word embedding knows."""
    return int(model.module("embed").weight.shape[0])  # type: ignore[union-attr]


def check_ids(model: Model, ids: Iterable[int] | Tensor) -> None:
    """Raise TracerError if one of ``ids`` has no row in the word embedding."""
    highest = max(ids.flatten().tolist() if isinstance(ids, Tensor) else ids, default=0)
    if highest >= rows(model):
        token = model.tokenizer.convert_ids_to_tokens(highest)
        raise TracerError(
            f"token {token!r} has the id {highest}, and {model.name} has rows for {rows(model)} tokens: the tokenizer "
            "is of another model or had tokens added; load the one that belongs to the model, leave the token out of "
            "the text, or give the model rows with hf.resize_token_embeddings and train them"
        )


def note_tokens_beyond(model: Model, stacklevel: int) -> None:
    """Warn with TracerNote if the tokenizer has tokens that the word embedding has no row for."""
    vocabulary: dict[str, Any] = model.tokenizer.get_vocab()
    beyond = sorted((place, token) for token, place in vocabulary.items() if place >= rows(model))
    if beyond:
        some = ", ".join(repr(token) for _, token in beyond[:3]) + (", ..." if len(beyond) > 3 else "")
        warnings.warn(
            f"the tokenizer of {model.name!r} has {len(beyond)} tokens ({some}) that the model has no row for; texts "
            "with them are refused. Is it this model's tokenizer?",
            TracerNote,
            stacklevel=stacklevel,
        )
