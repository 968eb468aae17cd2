"""A trace as a heat map, as in Meng et al. 2022 (ROME), figure 1; several traces as panels of one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import TracerError
from ..labels import MODULES, escape, headline, measure, remark, row_labels, summary, token_label, x_title
from .style import (
    AXIS,
    BAR_ROOM,
    COLORS,
    EDGE,
    INK,
    LINE,
    SMALL,
    TITLES,
    Canvas,
    axis,
    in_layout,
    layer_ticks,
    small,
    text_width,
    wrapped,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..result import CausalTrace

TOP, HEADING, BOTTOM, RIGHT = 118, 62, 60, 30  # margins; the top holds title, subtitle and panel titles
COLUMNS = 3


def plot_trace(trace: CausalTrace | Sequence[CausalTrace]) -> go.Figure:
    """Heat map of one trace, or one panel per trace side by side (three to a row).

    Rows are tokens from first to last, those of the subject with a star; columns are layers; the colour is the metric
    after restoring, its floor the corrupted score, its ceiling the largest score of the panel. Small rings mark the
    `strongest_sites`. Layers that were not traced are left blank. A panel says so where paths were severed and where
    its effects are estimates. Texts are shown literally.

    Raises TracerError for an empty sequence and for things that are no traces.
    """
    import plotly.graph_objects as go

    traces = _as_list(trace)
    grid = _Grid.of(traces)
    figure = go.Figure()
    for index in range(len(traces)):
        _add_panel(figure, traces, grid, index)
    title, subtitle = "Where restoring clean states brings the answer back", ""
    if not grid.headed:
        title = headline(traces[0].prompt, traces[0].answer, (grid.width - 2 * EDGE) // 10)
        subtitle, _ = wrapped(summary(traces[0]), grid.width - 2 * EDGE)
    figure.update_layout(grid.canvas.layout(title, subtitle))
    return figure


@dataclass(frozen=True)
class _Grid:
    """Where the panels lie, in pixels from the top left corner."""

    left: int
    top: int
    panel: tuple[int, int]  # width, height of one heat map
    step: tuple[int, int]  # from one panel to the next
    columns: int
    rows: int
    headed: bool  # panels of different prompts: each says its own instead of the figure's title
    width: int

    @classmethod
    def of(cls, traces: Sequence[CausalTrace]) -> _Grid:
        n_layers = max(max(t.layers) - min(t.layers) + 1 for t in traces)
        n_rows = max(len(t.positions) for t in traces)
        width = min(max(34 * n_layers, 250), 340)
        height = max(n_rows * (30 if n_rows <= 9 else 23 if n_rows <= 20 else 17), 150)
        left = 30 + int(max(text_width(label) for t in traces for label in row_labels(t)))
        headed = len({(t.prompt, t.subject, t.answer, t.model, t.metric, t.foil) for t in traces}) > 1
        # the label column is repeated only where neighbours have different tokens
        repeat = any(not _same_rows(traces[i - 1], t) for i, t in enumerate(traces) if i % COLUMNS)
        columns = min(len(traces), COLUMNS)
        remarks = LINE if any(map(remark, traces)) else 0
        step = (width + BAR_ROOM + (left if repeat else 22), height + BOTTOM + HEADING + remarks)
        total = max(left + (columns - 1) * step[0] + width + BAR_ROOM + RIGHT, 560)
        _, lines = ("", 0) if headed else wrapped(summary(traces[0]), total - 2 * EDGE)
        top = (96 if headed else TOP + LINE * (lines - 1)) + remarks
        return cls(left, top, (width, height), step, columns, -(-len(traces) // COLUMNS), headed, total)

    @property
    def canvas(self) -> Canvas:
        return Canvas(self.width, self.top + (self.rows - 1) * self.step[1] + self.panel[1] + BOTTOM)

    def place(self, index: int) -> tuple[int, int]:
        """The upper left corner of a panel."""
        return self.left + index % self.columns * self.step[0], self.top + index // self.columns * self.step[1]


def _add_panel(figure: go.Figure, traces: Sequence[CausalTrace], grid: _Grid, index: int) -> None:
    import plotly.graph_objects as go

    trace, canvas = traces[index], grid.canvas
    first = index - index % grid.columns
    # panels with the rows of the first in their line zoom with it and are not labelled again
    shared = index != first and _same_rows(traces[first], trace)
    x_axis, y_axis = axis("x", index), axis("y", index)
    x, y = grid.place(index)
    width, height = grid.panel
    x_domain, y_domain = canvas.domain(x, y, width, height)
    layers = list(range(min(trace.layers), max(trace.layers) + 1))
    gap = 1 if len(layers) <= 24 else 0
    floor, ceiling, falling = _color_range(trace)
    figure.add_trace(
        go.Heatmap(
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
            colorbar=canvas.color_bar(x + width, y, height, measure(trace, int((height + 40) / 6.9))),
            xaxis=x_axis,
            yaxis=y_axis,
        )
    )
    figure.layout[in_layout(x_axis)] = {
        **AXIS,
        "domain": x_domain,
        "anchor": y_axis,
        "range": [layers[0] - 0.5, layers[-1] + 0.5],
        "tickvals": layer_ticks(layers),
        "tickfont": SMALL,
        "title": {"text": x_title(trace), "font": {"size": 12.5}, "standoff": 8},
    }
    figure.layout[in_layout(y_axis)] = {
        **AXIS,
        "domain": y_domain,
        "anchor": x_axis,
        # numbers, not the texts, place the rows: two equal tokens are two rows; the first token is on top
        "range": [len(trace.positions) - 0.5, -0.5],
        "tickvals": list(range(len(trace.positions))),
        "ticktext": row_labels(trace),
        "tickfont": {"size": 13},
        "ticklabelstandoff": 5,
        "showticklabels": not shared,
        "matches": axis("y", first) if shared else None,
    }
    heading = [f"<b>{TITLES.get(trace.kind, escape(trace.kind))}</b>"]
    if grid.headed:
        heading.append(small(headline(trace.prompt, trace.answer, (grid.step[0] - 10) // 7)))
    if remark(trace):
        heading.append(small(remark(trace)))
    figure.add_annotation(canvas.heading(x, y, "<br>".join(heading)))
    for token, layer in strongest_sites(trace):
        # pixels around the cell's centre: a ring stays a ring in cells of any size
        figure.add_shape(
            {
                "type": "circle",
                "xref": x_axis,
                "xanchor": layer,
                "yref": y_axis,
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
        raise TracerError("plot_trace got an empty list; pass one CausalTrace or a list of them")
    for each in traces:
        if not hasattr(each, "scores") or not hasattr(each, "positions"):
            raise TracerError(f"plot_trace expected a CausalTrace or a list of them, got {type(each).__name__}")
    return traces


def _same_rows(a: CausalTrace, b: CausalTrace) -> bool:
    return a.positions == b.positions and row_labels(a) == row_labels(b)


def _spread(values: np.ndarray, layers: Sequence[int], blank: Any) -> np.ndarray:
    """[rows, traced layers, ...] -> [rows, every layer from the lowest to the highest, ...], ``blank`` in between."""
    low = min(layers)
    wide = np.full((values.shape[0], max(layers) - low + 1, *values.shape[2:]), blank, dtype=values.dtype)
    wide[:, [layer - low for layer in layers]] = values
    return wide


def _hover_data(trace: CausalTrace) -> np.ndarray:
    """Texts of each cell, [rows, layers, 4]: token, its index, where was restored, effect."""
    from ..causal import window_layers

    texts = np.empty((*np.shape(trace.scores), 4), dtype=object)
    for row, position in enumerate(trace.positions):
        for column, layer in enumerate(trace.layers):
            where = f"layer {layer}"
            if trace.kind in MODULES:
                restored = window_layers(layer, trace.window, trace.n_layers)
                where = f"centre {where}, restored {restored[0]} to {restored[-1]}"
            effect = float(trace.scores[row, column]) - trace.corrupted
            texts[row, column] = token_label(trace.tokens[position], 60), position, where, f"{effect:+.4f}"
    return _spread(texts, trace.layers, None)


def _color_range(trace: CausalTrace) -> tuple[float, float, bool]:
    """Floor, ceiling, and whether the colour grows as the score falls (a distance, such as KL, does)."""
    scores = np.asarray(trace.scores, dtype=float)
    # rounding noise of a trace without any effect must not fill the whole scale
    least = max(0.02 * abs(trace.clean - trace.corrupted), 1e-3 * abs(trace.clean), 1e-9)
    if trace.clean < trace.corrupted:
        return min(float(np.nanmin(scores)), trace.corrupted - least), trace.corrupted, True
    return trace.corrupted, max(float(np.nanmax(scores)), trace.corrupted + least), False
