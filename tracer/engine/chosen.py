"""Logits at chosen places of rows of any length, from one forward, and the keys and values it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.model import check_ids

from .acts import Ids
from .batch import pad
from .frame import Frame
from .hooks import pick_logits
from .kv_cache import Cached, recorded
from .memories import forward
from .trial import slower

if TYPE_CHECKING:
    from tracer.model import Model


def run(
    model: Model, rows: Sequence[tuple[Ids, tuple[int, ...]]], keep: bool, frame: Frame | None = None
) -> tuple[Tensor, Cached | None]:
    """Logits [places of all rows together, V] of one forward and, if asked and possible, its keys and values.

    Args:
        model: the model.
        rows: ids, and the places whose logits are read.
        keep: whether keys and values are asked for.
        frame: what the rows' prompts are, where the model has memories.
    """
    lengths = [len(ids) for ids, _ in rows]
    frame = frame and frame.at(max(lengths), lengths=lengths)
    if not keep:
        return _logits(model, rows, frame, {}), None
    logits, cached, why = recorded(model, partial(_logits, model, rows, frame), max(lengths))
    if why:
        slower(model, f"{why}, so every token of a text is written by a run over all tokens before")
    return logits, cached


def _logits(
    model: Model, rows: Sequence[tuple[Ids, tuple[int, ...]]], frame: Frame | None, arguments: dict[str, Any]
) -> Tensor:
    ids = pad([row for row, _ in rows])
    check_ids(model, ids)
    lines = torch.tensor([index for index, (_, read) in enumerate(rows) for _ in read])
    positions = torch.tensor([position for _, read in rows for position in read])
    handle = pick_logits(model, lines, positions)
    try:
        return forward(model, ids.to(model.device), frame, **arguments).logits[0]
    finally:
        handle.remove()
