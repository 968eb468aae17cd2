"""Figures: a trace as a heat map, as in Meng et al. 2022 (ROME), figure 1; several traces as panels of one figure.

All sizes are pixels until the very end, so that panels, labels and colour bars never overlap, whatever the number of
tokens, layers and panels.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import TracerError
from .labels import LIMIT, MODULES, escape, headline, measure, row_labels, summary, token_label, x_title

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from .result import CausalTrace

FONT = '"Source Sans 3", "Helvetica Neue", Arial, "Liberation Sans", "DejaVu Sans", sans-serif'
INK, QUIET, FRAME = "#26262b", "#6b6b76", "#d9d9e0"
COLORS = {"hidden": "Purples", "mlp": "Greens", "attn": "Reds"}
TITLES = {"hidden": "Restoring the hidden state", "mlp": "Restoring MLP outputs", "attn": "Restoring attention outputs"}

TOP, HEADING, BOTTOM, RIGHT = 118, 62, 60, 30  # margins; the top holds title, subtitle and panel titles
BAR, BAR_ROOM = 11, 84  # colour bar: thickness, and what it takes together with its numbers and title
COLUMNS = 3


def plot_trace(trace: CausalTrace | Sequence[CausalTrace]) -> go.Figure:
    """Heat map of one trace, or one panel per trace side by side (three to a row).

    Rows are tokens from first to last, those of the subject with a star; columns are layers; the colour is the metric
    after restoring, its floor the corrupted score, its ceiling the largest score of the panel. Small rings mark the
    `strongest_sites`. Layers that were not traced are left blank. Texts are shown literally.

    Raises TracerError for an empty sequence and for things that are no traces.
    """
    import plotly.graph_objects as go

    traces = _as_list(trace)
    grid = _Grid.of(traces)
    figure = go.Figure()
    for index in range(len(traces)):
        _add_panel(figure, traces, grid, index)
    if grid.headed:
        title = "Where restoring clean states brings the answer back"
    else:
        title = headline(traces[0], (grid.width - 44) // 10 - min(len(traces[0].answer), LIMIT))
    figure.update_layout(
        template="plotly_white",
        width=grid.width,
        height=grid.height,
        margin={"l": 0, "r": 0, "t": 0, "b": 0, "pad": 0, "autoexpand": False},
        font={"family": FONT, "size": 13, "color": INK},
        title={
            "text": title,
            "font": {"size": 19},
            "subtitle": {"text": "" if grid.headed else summary(traces[0]), "font": {"size": 13, "color": QUIET}},
            "x": 22 / grid.width,
            "y": 1 - 30 / grid.height,
            "yanchor": "middle",
        },
        hoverlabel={"font": {"size": 13, "color": INK}, "bgcolor": "white", "bordercolor": QUIET, "align": "left"},
        showlegend=False,
    )
    return figure


@dataclass(frozen=True)
class _Grid:
    """Where the panels lie, in pixels from the top left corner."""

    left: int
    panel: tuple[int, int]  # width, height of one heat map
    step: tuple[int, int]  # from one panel to the next
    columns: int
    rows: int
    headed: bool  # panels of different prompts: each says its own instead of the figure's title

    @classmethod
    def of(cls, traces: Sequence[CausalTrace]) -> _Grid:
        n_layers = max(max(t.layers) - min(t.layers) + 1 for t in traces)
        n_rows = max(len(t.positions) for t in traces)
        longest = max(len(html.unescape(label)) for t in traces for label in row_labels(t))
        width = min(max(34 * n_layers, 250), 340)
        height = max(n_rows * (30 if n_rows <= 9 else 23 if n_rows <= 20 else 17), 150)
        left = 30 + int(7.6 * longest)
        headed = len({(t.prompt, t.subject, t.answer, t.model) for t in traces}) > 1
        # the label column is repeated only where neighbours have different tokens
        repeat = any(not _same_rows(traces[i - 1], t) for i, t in enumerate(traces) if i % COLUMNS)
        columns = min(len(traces), COLUMNS)
        step = (width + BAR_ROOM + (left if repeat else 22), height + BOTTOM + HEADING)
        return cls(left, (width, height), step, columns, -(-len(traces) // COLUMNS), headed)

    @property
    def top(self) -> int:
        return 96 if self.headed else TOP

    @property
    def width(self) -> int:
        needed = self.left + (self.columns - 1) * self.step[0] + self.panel[0] + BAR_ROOM + RIGHT
        return max(needed, 560)

    @property
    def height(self) -> int:
        return self.top + (self.rows - 1) * self.step[1] + self.panel[1] + BOTTOM

    def domain(self, index: int) -> tuple[list[float], list[float]]:
        """The panel's place as fractions of the figure: x from the left, y from the bottom."""
        x = self.left + (index % self.columns) * self.step[0]
        y = self.top + (index // self.columns) * self.step[1]
        return (
            [x / self.width, (x + self.panel[0]) / self.width],
            [1 - (y + self.panel[1]) / self.height, 1 - y / self.height],
        )


def _add_panel(figure: go.Figure, traces: Sequence[CausalTrace], grid: _Grid, index: int) -> None:
    import plotly.graph_objects as go

    trace = traces[index]
    first = index - index % grid.columns
    # panels with the rows of the first in their line zoom with it and are not labelled again
    shared = index != first and _same_rows(traces[first], trace)
    x_axis, y_axis = _axis("x", index), _axis("y", index)
    (x0, x1), (y0, y1) = grid.domain(index)
    layers = list(range(min(trace.layers), max(trace.layers) + 1))
    gap = 1 if len(layers) <= 24 else 0
    floor, ceiling, falling = _color_range(trace)
    figure.add_trace(
        go.Heatmap(
            z=_spread(np.asarray(trace.scores, dtype=float), trace.layers, np.nan),
            x=layers,
            y=list(range(len(trace.positions))),
            customdata=_hover_data(trace),
            meta=[measure(trace)],
            # whatever the user wrote is looked up, it is never part of the template
            hovertemplate="<b>%{customdata[0]}</b> (token %{customdata[1]})<br>%{customdata[2]}<br>"
            "%{meta[0]} = %{z:.4f}<br>effect %{customdata[3]}<extra></extra>",
            hoverongaps=False,
            colorscale=COLORS.get(trace.kind, "Blues"),
            reversescale=falling,
            zmin=floor,
            zmax=ceiling,
            xgap=gap,
            ygap=gap,
            colorbar={
                "x": x1 + 9 / grid.width,
                "xanchor": "left",
                "xpad": 0,
                "y": (y0 + y1) / 2,
                "yanchor": "middle",
                "ypad": 0,
                "lenmode": "pixels",
                "len": grid.panel[1],
                "thickness": BAR,
                "outlinewidth": 0,
                "nticks": 6,
                "tickfont": {"size": 11, "color": QUIET},
                "title": {"text": measure(trace), "side": "right", "font": {"size": 12}},
            },
            xaxis=x_axis,
            yaxis=y_axis,
        )
    )
    axis = {"showgrid": False, "zeroline": False, "ticks": "", "showline": True, "mirror": True, "linecolor": FRAME}
    every = next(s for s in (1, 2, 5, 10, 20) if len(layers) <= 12 * s or s == 20)
    figure.layout["xaxis" + x_axis[1:]] = {
        **axis,
        "domain": [x0, x1],
        "anchor": y_axis,
        "range": [layers[0] - 0.5, layers[-1] + 0.5],
        "tickvals": [layer for layer in layers if layer % every == 0],
        "tickfont": {"size": 12, "color": QUIET},
        "title": {"text": x_title(trace), "font": {"size": 12.5}, "standoff": 8},
    }
    figure.layout["yaxis" + y_axis[1:]] = {
        **axis,
        "domain": [y0, y1],
        "anchor": x_axis,
        # numbers, not the texts, place the rows: two equal tokens are two rows; the first token is on top
        "range": [len(trace.positions) - 0.5, -0.5],
        "tickvals": list(range(len(trace.positions))),
        "ticktext": row_labels(trace),
        "tickfont": {"size": 13},
        "ticklabelstandoff": 5,
        "showticklabels": not shared,
        "matches": _axis("y", first) if shared else None,
    }
    heading = f"<b>{TITLES.get(trace.kind, escape(trace.kind))}</b>"
    if grid.headed:
        room = (grid.step[0] - 10) // 7 - min(len(trace.answer), LIMIT)
        heading += f'<br><span style="color:{QUIET};font-size:12px">{headline(trace, room)}</span>'
    figure.add_annotation(
        {"text": heading, "x": x0, "y": y1, "xref": "paper", "yref": "paper", "showarrow": False, "align": "left"},
        xanchor="left",
        yanchor="bottom",
        yshift=6,
        font={"size": 14},
    )
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


def _axis(letter: str, index: int) -> str:
    return letter if index == 0 else f"{letter}{index + 1}"


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
    from .causal import window_layers

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
