"""A trace as a heat map, as in Meng et al. 2022 (ROME), figure 1; several traces as panels of one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import NothingToDraw

from .fit import arrange, widths
from .labels import MODULES, measure, remark, token_label
from .style import COLORS, INK, axis
from .trace_plan import Plan, arrangement

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracer.tracing.trace import CausalTrace


def plot_trace(trace: CausalTrace | Sequence[CausalTrace], width: int | None = None) -> go.Figure:
    """Heat map of one trace, or one panel per trace side by side, up to three in a line.

    Rows are tokens from first to last, those of the subject with a star; columns are layers; the colour is the metric
    after restoring, its floor the corrupted score, its ceiling the largest score of the panel. Small rings mark the
    `strongest_sites`. Layers that were not traced are left blank. A panel is labelled where paths were severed and
    where its effects are estimates. Texts are shown literally.

    Args:
        trace: one trace, or several.
        width: pixels the figure may take. Panels become narrower, and where their cells would be too small fewer are in
            a line. By default 1240, which fits a window of 1300 pixels; an exported page then rearranges them to fit
            the window it is shown in.

    Raises:
        TracerError: an empty sequence, or anything but traces.
    """
    import plotly.graph_objects as go

    traces = _as_list(trace)
    plans = dict.fromkeys(Plan.of(traces, each) for each in widths(width))
    figure = go.Figure([_heat_map(each, index) for index, each in enumerate(traces)])
    arrange(figure, [arrangement(traces, plan) for plan in plans])
    for index, each in enumerate(traces):
        _add_rings(figure, each, index)
    return figure


def _heat_map(trace: CausalTrace, index: int) -> go.Heatmap:
    import plotly.graph_objects as go

    layers = list(range(min(trace.layers), max(trace.layers) + 1))
    gap = 1 if len(layers) <= 24 else 0
    floor, ceiling, falling = _color_range(trace)
    return go.Heatmap(
        z=_spread(np.asarray(trace.scores, dtype=float), trace.layers, np.nan),
        x=layers,
        y=list(range(len(trace.positions))),
        customdata=_hover_data(trace),
        meta=[measure(trace), remark(trace) and f" ({remark(trace)})"],
        # whatever the user wrote is looked up, it is never part of the template
        hovertemplate="<b>%{customdata[0]}</b> (token %{customdata[1]})<br>%{customdata[2]}<br>"
        "%{meta[0]} = %{z:.4f}<br>effect %{customdata[3]}%{meta[1]}<extra></extra>",
        hoverongaps=False,
        colorscale=COLORS.get(trace.kind, "Blues"),
        reversescale=falling,
        zmin=floor,
        zmax=ceiling,
        xgap=gap,
        ygap=gap,
        xaxis=axis("x", index),
        yaxis=axis("y", index),
    )


def _add_rings(figure: go.Figure, trace: CausalTrace, index: int) -> None:
    for token, layer in strongest_sites(trace):
        # pixels around the cell's centre: a ring stays a ring in cells of any size
        figure.add_shape(
            {
                "type": "circle",
                "xref": axis("x", index),
                "xanchor": layer,
                "yref": axis("y", index),
                "yanchor": trace.positions.index(token),
            },
            xsizemode="pixel",
            x0=-3.5,
            x1=3.5,
            ysizemode="pixel",
            y0=-3.5,
            y1=3.5,
            fillcolor="white",
            line={"color": INK, "width": 1.2},
        )


def strongest_sites(trace: CausalTrace) -> list[tuple[int, int]]:
    """The peak as (token, layer), and after it the subject's own best site where that has a third of the peak's effect.

    Two sites and not one: the hidden state of the last token in the last layer gives back the whole answer in every
    model, since nothing comes after it, and so hides the earlier site at the subject.
    """
    peak = trace.peak()
    start, end = trace.subject_range
    rows = [row for row, position in enumerate(trace.positions) if start <= position < end]
    if peak[0] not in trace.positions or start <= peak[0] < end or not rows:
        return [peak] if peak[0] in trace.positions else []
    effect = np.abs(np.asarray(trace.effect, dtype=float))
    row, column = np.unravel_index(np.nanargmax(effect[rows]), effect[rows].shape)
    top = effect[trace.positions.index(peak[0]), trace.layers.index(peak[1])]
    strong = effect[rows][row, column] >= top / 3 > 0
    return [peak, (trace.positions[rows[row]], trace.layers[column])] if strong else [peak]


def _as_list(trace: CausalTrace | Sequence[CausalTrace]) -> list[CausalTrace]:
    traces: list[CausalTrace] = list(trace) if isinstance(trace, Sequence) else [trace]
    if not traces:
        raise NothingToDraw("plot_trace got an empty list; pass one CausalTrace or a list of them")
    for each in traces:
        if not hasattr(each, "scores") or not hasattr(each, "positions"):
            raise NothingToDraw(f"plot_trace expected a CausalTrace or a list of them, got {type(each).__name__}")
    return traces


def _spread(values: np.ndarray, layers: Sequence[int], blank: Any) -> np.ndarray:
    """[rows, traced layers, ...] -> [rows, every layer from the lowest to the highest, ...], `blank` in between."""
    low = min(layers)
    wide = np.full((values.shape[0], max(layers) - low + 1, *values.shape[2:]), blank, dtype=values.dtype)
    wide[:, [layer - low for layer in layers]] = values
    return wide


def _hover_data(trace: CausalTrace) -> np.ndarray:
    """Texts of each cell, [rows, layers, 4]: token, its index, where was restored, effect."""
    from tracer.tracing.causal import window_layers

    where = []
    for layer in trace.layers:
        where.append(f"layer {layer}")
        if trace.kind in MODULES:
            first, end = trace.within or (0, trace.n_layers)
            restored = window_layers(layer, trace.window, end, first)
            where[-1] = f"centre layer {layer}, restored {restored[0]} to {restored[-1]}"
    effects = (np.asarray(trace.scores, dtype=float) - trace.corrupted).tolist()
    texts = np.empty((*np.shape(trace.scores), 4), dtype=object)
    for row, position in enumerate(trace.positions):
        texts[row, :, 0] = token_label(trace.tokens[position], 60)
        texts[row, :, 1] = position
        texts[row, :, 2] = where
        texts[row, :, 3] = [f"{effect:+.4f}" for effect in effects[row]]
    return _spread(texts, trace.layers, None)


def _color_range(trace: CausalTrace) -> tuple[float, float, bool]:
    """Floor, ceiling, and whether the colour grows as the score falls (a distance, such as KL, does)."""
    scores = np.asarray(trace.scores, dtype=float)
    # rounding noise of a trace without any effect must not fill the whole scale
    least = max(0.02 * abs(trace.clean - trace.corrupted), 1e-3 * abs(trace.clean), 1e-9)
    if trace.clean < trace.corrupted:
        return min(float(np.nanmin(scores)), trace.corrupted - least), trace.corrupted, True
    return trace.corrupted, max(float(np.nanmax(scores)), trace.corrupted + least), False
