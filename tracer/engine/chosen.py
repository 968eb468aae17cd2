"""Logits at chosen places of rows of any length, from one forward, and the keys and values it leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.model import check_ids

from .batch import pad
from .hooks import pick_logits
from .kv_cache import Cached, recorded
from .trial import slower

if TYPE_CHECKING:
    from tracer.model import Model

Ids = tuple[int, ...]


def run(model: Model, rows: Sequence[tuple[Ids, tuple[int, ...]]], keep: bool) -> tuple[Tensor, Cached | None]:
    """Logits [places of all rows together, V] of one forward and, if asked and possible, its keys and values.

    rows: ids, and the places whose logits are read.
    """
    if not keep:
        return _logits(model, rows, {}), None
    tokens = max(len(ids) for ids, _ in rows)
    logits, cached, why = recorded(model, lambda arguments: _logits(model, rows, arguments), tokens)
    if why:
        slower(model, f"{why}, so every token of a text is written by a run over all tokens before")
    return logits, cached


def _logits(model: Model, rows: Sequence[tuple[Ids, tuple[int, ...]]], arguments: dict[str, Any]) -> Tensor:
    ids = pad([row for row, _ in rows])
    check_ids(model, ids)
    lines = torch.tensor([index for index, (_, read) in enumerate(rows) for _ in read])
    positions = torch.tensor([position for _, read in rows for position in read])
    handle = pick_logits(model, lines, positions)
    try:
        return model.hf(input_ids=ids.to(model.device), **arguments).logits[0]
    finally:
        handle.remove()
