"""Token ids and the rows of the word embedding: a tokenizer may know more tokens than the model it came with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from tracer.errors import TextWithoutTokens

if TYPE_CHECKING:
    from .model import Model


def check_ids(model: Model, ids: Iterable[int] | Tensor) -> None:
    """Check that the word embedding has a row for each of `ids`.

    Raises:
        TracerError: it has not.
    """
    highest = max(ids.flatten().tolist() if isinstance(ids, Tensor) else ids, default=0)
    if highest >= model.n_tokens:
        token = model.tokenizer.convert_ids_to_tokens(highest)
        raise TextWithoutTokens(
            f"token {token!r} has the id {highest}, and {model.name} has rows for {model.n_tokens} tokens: the "
            "tokenizer is of another model or had tokens added; load the one that belongs to the model, leave the "
            "token out of the text, or give the model rows with hf.resize_token_embeddings and train them"
        )
