"""Keys of a text read into sums of k k^T, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tracer.engine.batch import logits_of, pad
from tracer.engine.forward import Stop
from tracer.engine.hooks import Frame, attach, evaluating
from tracer.engine.layout import sources
from tracer.errors import NotFinite

from . import triangles as packed
from .accumulate import Sums

if TYPE_CHECKING:
    from tracer.model import Model

    from .text import Windows

GROUP = 4
"""Batches whose windows are sorted by length together, and after which the state can be kept."""
FEWEST = 512
"""Doublings are watched from this many tokens on."""


def empty_sums(model: Model, layers: Sequence[int], dtype: torch.dtype) -> Sums:
    """Sums of zero keys, on the devices of the layers."""
    return Sums({i: torch.zeros(model.d_mlp, model.d_mlp, dtype=dtype, device=_device(model, i)) for i in layers})


def marks_of(corpus: Windows) -> list[int]:
    """Numbers of tokens at which the change of the moments is measured: all, a half, a quarter, ..."""
    marks = [corpus.tokens]
    while marks[0] >= 2 * FEWEST:
        marks.insert(0, marks[0] // 2)
    return marks


def reached(ends: np.ndarray, marks: Iterable[int]) -> set[int]:
    """Number of windows needed to reach each of the `marks`."""
    return {int(np.searchsorted(ends, mark)) + 1 for mark in marks}


def read_groups(
    model: Model,
    corpus: Windows,
    groups: Iterable[tuple[int, int]],
    sums: Sums,
    batch_tokens: int,
    stops: set[int],
) -> Iterator[tuple[int, int]]:
    """Add the keys of groups of windows to running sums, batch by batch.

    Args:
        model: to read with.
        corpus: the windows.
        groups: first window and the one after the last, of each group.
        sums: added to in place.
        batch_tokens: tokens per forward.
        stops: windows after which the change is measured.

    Yields:
        After every batch: the window behind the group where that is done, else 0; and how many tokens were read.
    """
    for first, stop in groups:
        rows = sorted(corpus.rows(first, stop), key=len, reverse=True)
        count = 0
        for batch in _batches(rows, batch_tokens):
            if count:
                yield 0, count
            with torch.no_grad(), evaluating(model):
                _read(model, batch, sums.totals)
            count = sum(map(len, batch))
            sums.tokens += count
        sums.groups += 1
        if stop in stops:
            check_finite(model, sums)
            sums.mark()
        yield stop, count


def _batches(rows: Sequence[np.ndarray], size: int) -> Iterable[list[np.ndarray]]:
    """`rows`, longest first, in batches of at most `size` tokens with padding, or one row."""
    while rows:
        take = max(1, size // len(rows[0]))
        yield list(rows[:take])
        rows = rows[take:]


def _read(model: Model, rows: Sequence[np.ndarray], totals: dict[int, Tensor]) -> None:
    """Run the model over `rows`, padded on the right, as far as the last layer, and add up its keys."""
    ids = pad(sources(model, rows))
    length = ids.shape[1]
    real = torch.arange(length) < torch.tensor([len(row) for row in rows])[:, None]
    padded = not bool(real.all())
    last = max(totals)

    def gather(layer: int) -> Any:
        def edit(keys: Tensor) -> None:
            keys = keys[real.to(keys.device)] if padded else keys.reshape(-1, keys.shape[-1])
            packed.add_upper(totals[layer], keys.to(totals[layer].dtype))
            if layer == last:
                raise Stop

        return edit

    frame = Frame(length)
    with ExitStack() as stack, suppress(Stop):
        for layer in totals:
            stack.callback(attach(model, "key", layer, gather(layer), frame).remove)
        logits_of(model, ids, real if padded else None)


def _device(model: Model, layer: int) -> torch.device:
    """Device of a layer's computation; offloaded layers compute on that of the ids."""
    device = model.down_projection(layer).weight.device
    return model.device if device.type == "meta" else device


def check_finite(model: Model, sums: Sums) -> None:
    """Check that keys were finite.

    Args:
        model: named in the message.
        sums: of the keys.

    Raises:
        TracerError: they were not.
    """
    for layer, total in sums.totals.items():
        if not total.diagonal().isfinite().all():
            raise NotFinite(
                f"keys of layer {layer} are not finite in {model.dtype}; load {model.name} in bfloat16 or float32"
            )
