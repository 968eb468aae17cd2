"""What a model is fine-tuned on, or asked afterwards, as rows: texts token by token, facts at their answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.methods.training import lesson, losses, read_logits, token_losses
from editing.questions.record import EditRecord, listed
from editing.request import EditRequest, as_requests
from tracer.engine.batch import Row
from tracer.engine.hooks import evaluating
from tracer.errors import EncoderDecoderError, InvalidEditRequest, MaskedModelError
from tracer.facts.encoding import encode

if TYPE_CHECKING:
    from tracer.model import Model

SOME = 16  # rows of a forward that only reads


def lessons_of(model: Model, items: Any) -> tuple[list[Row], tuple[EditRequest, ...]]:
    """Rows, and the requests among the items.

    A text is read at every token but its first, in pieces where it is longer than the context; a request at its target.

    Args:
        model: whose tokenizer is used.
        items: a text, a request or record, or several of either.

    Raises:
        TracerError: nothing to read, an item that is neither, a masked model.
    """
    if not model.causal:
        raise MaskedModelError(
            f"{model.name} is a masked model; task arithmetic here takes models that predict the next token"
        )
    rows: list[Row] = []
    requests: list[EditRequest] = []
    for item in listed(items):
        if isinstance(item, str):
            rows += _pieces(model, item)
        else:
            found = as_requests(item.requests() if isinstance(item, EditRecord) else item)
            requests += found
            rows += [lesson(model, one, "target_new") for one in found]
    if not rows:
        raise InvalidEditRequest("there is nothing to learn: no text of two tokens, and no request; give at least one")
    return rows, tuple(requests)


def mean_loss(model: Model, rows: list[Row]) -> Tensor:
    """Mean of -log p over all tokens that the rows are read at."""
    return token_losses(read_logits(model, rows), rows).mean()


def losses_of(model: Model, rows: list[Row]) -> Tensor:
    """Mean of -log p over the tokens of each row, [rows] float64 on the CPU; some rows at a time, without gradients."""
    with torch.no_grad(), evaluating(model):
        some = [losses(model, rows[start : start + SOME]).cpu().double() for start in range(0, len(rows), SOME)]
    return torch.cat(some)


def _pieces(model: Model, text: str) -> list[Row]:
    if model.style == "seq2seq":
        raise EncoderDecoderError(
            f"{model.name} is an encoder-decoder model, which predicts no next token of a text; give it requests"
        )
    ids = encode(model.tokenizer, text, model.causal)[0]
    step = max(2, model.n_ctx)
    found = []
    for start in range(0, max(1, len(ids) - 1), step - 1):
        some = tuple(ids[start : start + step])
        if len(some) > 1:
            found.append(Row(some[:-1], len(some) - 2, tuple(range(len(some) - 1)), some[1:]))
    return found
