"""A cell of a heat map: its numbers, and the layers to edit that it and the whole trace suggest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from editing.layers.from_result import layers_from
from editing.layers.located import SHARE, suggest
from tracer.errors import TracerError, WorkbenchError
from tracer.tracing.causal import window_layers
from tracer.tracing.trace import CausalTrace

if TYPE_CHECKING:
    from tracer.model import Model

WRITABLE = ("hidden", "mlp")  # kinds whose sites an edit of MLPs can change


@dataclass(frozen=True)
class Suggestion:
    """Layers to edit.

    Attributes:
        best: for methods that write at one layer; None without a suggestion.
        window: for methods that write at several, in order.
        reason: reason for a missing suggestion, or "".
    """

    best: int | None = None
    window: tuple[int, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell of a trace.

    Attributes:
        kind: "hidden", "mlp" or "attn".
        token: index of the token.
        text: the token.
        layer: of the cell.
        restored: the layers whose states were restored.
        score: the metric with them restored.
        effect: indirect effect: the score less that of the corrupted run.
        share: the effect as a share of the total effect, clean less corrupted; nan where that is zero.
        rank: 1 for the cell with the largest effect; equal cells have equal ranks.
        cells: number of cells.
        around: the layers around this one; see `cell_of`.
    """

    kind: str
    token: int
    text: str
    layer: int
    restored: tuple[int, ...]
    score: float
    effect: float
    share: float
    rank: int
    cells: int
    around: Suggestion


def cell_of(trace: CausalTrace, token: int, layer: int) -> Cell:
    """The cell of a trace at a token and a layer.

    The window around it grows from this layer, by [`editing.layers.located.suggest`][], over neighbours in its row with
    at least 0.8 of its effect. Of attention no layers are suggested, since edits write to MLPs.

    Args:
        trace: the trace.
        token: index in the prompt.
        layer: of the cell.

    Raises:
        TracerError: a token or a layer that was not traced.
    """
    for name, value, known in (("token", token, trace.positions), ("layer", layer, trace.layers)):
        if value not in known:
            raise WorkbenchError(f"the trace has no {name} {value!r}; it has {', '.join(map(str, known))}")
    row, column = trace.positions.index(token), trace.layers.index(layer)
    towards = np.asarray(trace.towards_clean, dtype=float)
    lost = trace.clean - trace.corrupted
    restored = window_layers(layer, trace.window, trace.n_layers) if trace.kind in ("mlp", "attn") else (layer,)
    return Cell(
        kind=trace.kind,
        token=token,
        text=trace.tokens[token],
        layer=layer,
        restored=tuple(restored),
        score=float(trace.scores[row, column]),
        effect=float(trace.effect[row, column]),
        share=float(trace.effect[row, column] / lost) if lost else float("nan"),
        rank=1 + int((towards > towards[row, column]).sum()),
        cells=int(np.isfinite(towards).sum()),
        around=_around(trace, towards[row], column),
    )


def suggestion_of(trace: CausalTrace, model: Model) -> Suggestion:
    """The layers a trace as a whole suggests: [`editing.layers.from_result.layers_from`][].

    A trace without any, or of other weights than the model has now, gives the reason instead.

    Args:
        trace: the trace.
        model: as it is now.
    """
    try:
        best = layers_from(trace, single=True, model=model)[0]
        return Suggestion(best, layers_from(trace, single=False, model=model))
    except TracerError as error:
        return Suggestion(reason=str(error))


def _around(trace: CausalTrace, row: np.ndarray, column: int) -> Suggestion:
    layer = trace.layers[column]
    if trace.kind not in WRITABLE:
        return Suggestion(reason="edits write to MLPs, and a cell of attention says nothing about those")
    profile, own = np.full(trace.n_layers, np.nan), np.zeros(trace.n_layers)
    profile[list(trace.layers)] = np.minimum(row, row[column])  # no layer is better, so that the window begins here
    own[layer] = 1
    (best, *_), window = suggest(profile, SHARE["trace"], ties=own)
    return Suggestion(best, window)
