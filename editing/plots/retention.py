"""Effect of later edits on earlier ones: a curve over all edits so far, and a map of each edit after each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.retention import RELIABLE
from editing.evaluation.result.schema import Frame
from editing.evaluation.result.series import Series, divided, series_of
from editing.questions.definitions import is_share
from tracer.plots.labels import escape
from tracer.plots.style import (
    AXIS,
    BAR_ROOM,
    EDGE,
    LINE,
    SMALL,
    VALUES,
    Canvas,
    axis,
    in_layout,
    legend_height,
    see_through,
    wrapped,
)

from .evaluation import checked, described
from .series import Look, label, looks

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTH, CURVE, MAP, HEADING, BETWEEN, BOTTOM, LEFT, RIGHT = 860, 280, 210, 28, 62, 54, 74, 30
IN_ROW = 3  # maps
SCALE = [[0, "#f4d3b5"], [0.5, "#9cc48f"], [1, "#0b5d2e"]]  # nothing of it is white, which means not measured


def plot_retention(
    evaluation: Evaluation,
    metric: str | None = None,
    *,
    maps: bool = True,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> go.Figure:
    """Mean of a metric over all edits made so far, against their number, with bootstrap bands.

    Below, if wanted: for each method the metric of edit i after j edits.

    Args:
        evaluation: the measurements.
        metric: its name; None: whether edits still hold, see `Evaluation.retention`.
        maps: draw the lower panels.
        level: of the bands.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        TracerError: anything but an evaluation; no edits of mode "sequential" have the metric.
    """
    import plotly.graph_objects as go

    checked("plot_retention", evaluation)
    found = evaluation.retention(metric, level=level, resamples=resamples, seed=seed)
    series = series_of(found.matrix)
    share = is_share(found.metric)
    notes = [
        described(evaluation),
        f"bands: {100 * level:.4g} % bootstrap intervals over subjects",
        f"metric: {escape(found.metric)}",
    ]
    subtitle, lines = wrapped(notes, WIDTH - 2 * EDGE)
    entries = [label(each) for each in series]
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height(entries, WIDTH) + 16
    rows = -(-len(series) // IN_ROW) if maps else 0
    canvas = Canvas(WIDTH, top + CURVE + BOTTOM + rows * (HEADING + MAP + BOTTOM))
    figure = go.Figure()
    for each, look, curve in zip(
        series, looks(series, evaluation.metrics["method"]), divided(found.curve, series), strict=True
    ):
        _add_curve(figure, each, look, curve, share)
    _add_axes(figure, canvas, 0, (LEFT, top, WIDTH - LEFT - RIGHT, CURVE), VALUES)
    what = "share of all edits so far that hold" if found.metric in RELIABLE else "mean over all edits so far"
    figure.layout["xaxis"].update(
        title={"text": "edits made", "font": {"size": 12.5}, "standoff": 6}, rangemode="tozero"
    )
    figure.layout["yaxis"].update(title={"text": what, "font": {"size": 12.5}})
    if share:
        figure.layout["yaxis"].update(range=[-0.03, 1.03], tickformat=".0%")
    if maps:
        _add_maps(figure, canvas, series, found.matrix, top + CURVE + BOTTOM, share)
    legend = {"showlegend": True, "legend": canvas.legend(entries, legend_top)}
    figure.update_layout(
        canvas.layout("What later edits leave of earlier ones", subtitle, hovermode="closest", **legend)
    )
    return figure


def _add_curve(figure: go.Figure, series: Series, look: Look, curve: Frame, share: bool) -> None:
    import plotly.graph_objects as go

    band = curve[np.isfinite(curve["low"]) & np.isfinite(curve["high"])]
    if len(band) > 1:
        figure.add_trace(
            go.Scatter(
                x=[*band["after"], *band["after"][::-1]],
                y=[*band["high"], *band["low"][::-1]],
                fill="toself",
                fillcolor=see_through(look.color, 0.12),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                legendgroup=label(series),
                showlegend=False,
            )
        )
    form = (lambda value: f"{100 * value:.1f} %") if share else (lambda value: f"{value:.4g}")
    texts = [
        f"<b>{label(series)}</b><br>after {row['after']:,} edits: {form(row['mean'])}"
        + (f" [{form(row['low'])}, {form(row['high'])}]" if np.isfinite([row["low"], row["high"]]).all() else "")
        + f"<br>{row['n']:,} of them measured"
        for row in curve.to_dict("records")
    ]
    figure.add_trace(
        go.Scatter(
            x=curve["after"],
            y=curve["mean"],
            customdata=texts,
            hovertemplate="%{customdata}<extra></extra>",
            mode="lines+markers" if len(curve) <= 40 else "lines",
            line={"color": look.color, "dash": look.dash, "width": look.width},
            marker={"color": look.color, "size": 6},
            name=label(series),
            legendgroup=label(series),
            showlegend=True,
        )
    )


def _add_maps(figure: go.Figure, canvas: Canvas, series: list[Series], matrix: Frame, top: float, share: bool) -> None:
    import plotly.graph_objects as go

    columns = min(IN_ROW, len(series))
    width = (WIDTH - LEFT - BAR_ROOM - (IN_ROW - 1) * BETWEEN) // IN_ROW
    for place, (each, rows) in enumerate(zip(series, divided(matrix, series), strict=True)):
        index = place + 1
        cells = rows.pivot_table(index="position", columns="after", values="mean")
        left = LEFT + (place % IN_ROW) * (width + BETWEEN)
        line = top + HEADING + (place // IN_ROW) * (HEADING + MAP + BOTTOM)
        figure.add_trace(
            go.Heatmap(
                z=cells.to_numpy(),
                x=[f"{after}" for after in cells.columns],
                y=[f"{position + 1}" for position in cells.index],
                coloraxis="coloraxis",
                name=label(each),
                hovertemplate="<b>%{fullData.name}</b><br>edit %{y} after %{x} edits: "
                f"%{{z{':.1%' if share else ':.4g'}}}<extra></extra>",
                xaxis=axis("x", index),
                yaxis=axis("y", index),
            )
        )
        _add_axes(figure, canvas, index, (left, line, width, MAP), AXIS)
        x, y = (figure.layout[in_layout(axis(letter, index))] for letter in "xy")
        # moments are columns of one width, whatever lies between them; text, so that Plotly does not space them out
        x.update(type="category", nticks=6, title={"text": "after so many edits", "font": {"size": 12}, "standoff": 5})
        y.update(type="category", nticks=8, autorange="reversed")
        if place % IN_ROW == 0:
            y.update(title={"text": "edit number", "font": {"size": 12}})
        figure.add_annotation({**canvas.heading(left, line, f"<b>{label(each)}</b>"), "font": {"size": 13}})
    right = LEFT + columns * width + (columns - 1) * BETWEEN
    bar = canvas.color_bar(right, top + HEADING, MAP, "")
    bounds: dict[str, Any] = {"cmin": 0, "cmax": 1} if share else {}
    figure.update_layout(
        coloraxis={"colorscale": SCALE, **bounds, "colorbar": {**bar, **({"tickformat": ".0%"} if share else {})}}
    )


def _add_axes(figure: go.Figure, canvas: Canvas, index: int, box: tuple[float, ...], kind: dict[str, Any]) -> None:
    left, top, width, height = box
    x_domain, y_domain = canvas.domain(left, top, width, height)
    common = {**kind, "tickfont": SMALL}
    figure.layout[in_layout(axis("x", index))] = {**common, "domain": x_domain, "anchor": axis("y", index)}
    figure.layout[in_layout(axis("y", index))] = {**common, "domain": y_domain, "anchor": axis("x", index)}
