"""Task arithmetic in figures: losses of tasks under multiples of an edit, and cosines of edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from editing.edits.edit import Edit
from editing.tasks import ScaledLosses, cosines
from tracer.errors import UnsuitableResult
from tracer.plots.labels import cut, escape
from tracer.plots.style import AXIS, EDGE, LINE, QUIET, SMALL, VALUES, Canvas, legend_height, see_through, wrapped

from .series import COLORS, DASHES

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTH, PANEL, BOTTOM, LEFT, RIGHT = 760, 300, 62, 74, 30
CELL, NAMES, MOST = 64, 24, 640
LIMIT = 32


def plot_scaled_losses(result: ScaledLosses) -> go.Figure:
    """Losses of tasks against the factor of an edit, a line per task, bands 95 % intervals over subjects.

    The dotted line is the model without the edit.

    Args:
        result: of [`editing.scaled_losses`][].

    Raises:
        TracerError: anything else.
    """
    import plotly.graph_objects as go

    if not isinstance(result, ScaledLosses):
        raise UnsuitableResult(
            f"plot_scaled_losses draws what editing.scaled_losses gave, not {type(result).__name__}; measure that first"
        )
    names = [escape(cut(name, LIMIT)) for name in result.items]
    subtitle, lines = wrapped([f"multiples of {escape(result.method)}, {escape(result.model)}"], WIDTH - 2 * EDGE)
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height(names, WIDTH) + 14
    canvas = Canvas(WIDTH, top + PANEL + BOTTOM)
    figure = go.Figure()
    factors = list(result.factors)
    for place, (name, (task, losses)) in enumerate(zip(names, result.losses.items(), strict=True)):
        color, ends = COLORS[place % len(COLORS)], result.intervals(task)
        figure.add_trace(
            go.Scatter(
                x=[*factors, *factors[::-1]],
                y=[*ends[:, 2], *ends[::-1, 1]],
                fill="toself",
                fillcolor=see_through(color, 0.14),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
            )
        )
        figure.add_trace(
            go.Scatter(
                x=factors,
                y=losses.tolist(),
                mode="lines+markers",
                name=name,
                line={"color": color, "width": 2.2, "dash": DASHES[place // len(COLORS) % 3]},
                marker={"color": color, "size": 5},
                hovertemplate="<b>%{fullData.name}</b><br>times %{x:.3g}: %{y:.4g} nats<extra></extra>",
            )
        )
    x_domain, y_domain = canvas.domain(LEFT, top, WIDTH - LEFT - RIGHT, PANEL)
    title = {"font": {"size": 12.5}, "standoff": 6}
    figure.add_vline(x=0, line={"color": QUIET, "width": 1, "dash": "dot"})
    figure.update_layout(
        canvas.layout(
            "Losses under multiples of an edit",
            subtitle,
            hovermode="closest",
            showlegend=True,
            legend=canvas.legend(names, legend_top),
            xaxis={**VALUES, "domain": x_domain, "tickfont": SMALL, "title": {"text": "factor", **title}},
            yaxis={
                **VALUES,
                "domain": y_domain,
                "tickfont": SMALL,
                "rangemode": "tozero",
                "title": {"text": "loss, nats a token", **title},
            },
        )
    )
    return figure


def plot_cosines(edits: Sequence[Edit], names: Sequence[str] | None = None) -> go.Figure:
    """Cosine of every edit with every other as a heatmap; see [`editing.tasks.cosines`][].

    Args:
        edits: of one model.
        names: of the edits, in their order; None: each one's method and place.

    Raises:
        TracerError: no edits, edits of different weights or without any, another number of names than of edits.
    """
    import plotly.graph_objects as go

    found = cosines(edits)
    given = [f"{edit.method} {place}" for place, edit in enumerate(edits)] if names is None else list(names)
    if len(given) != len(found):
        raise UnsuitableResult(f"there are {len(given)} names for {len(found)} edits; give one for each, or none")
    short = [cut(str(name), LIMIT) for name in given]
    labels, length = [escape(name) for name in short], 7 * max(map(len, short))
    room = 24 + length
    side = min(MOST, CELL * len(found))
    subtitle, lines = wrapped([f"changes of the weights of {escape(edits[0].model)}"], room + side + 60)
    top = 66 + LINE * lines
    canvas = Canvas(max(420, room + side + 60), top + side + NAMES + length)
    x_domain, y_domain = canvas.domain(room, top, side, side)
    places = list(range(len(found)))
    figure = go.Figure(
        go.Heatmap(
            z=found,
            x=places,
            y=places,
            zmin=-1,
            zmax=1,
            colorscale="RdBu",
            showscale=False,
            text=[[f"{value:.2f}" for value in row] for row in found] if len(found) <= 10 else None,
            texttemplate="%{text}" if len(found) <= 10 else None,
            customdata=[[(one, two) for two in labels] for one in labels],
            hovertemplate="%{customdata[0]}, %{customdata[1]}: %{z:.4f}<extra></extra>",
        )
    )
    ticks = {"tickmode": "array", "tickvals": places, "ticktext": labels, "tickfont": SMALL}
    figure.update_layout(
        canvas.layout(
            "Cosines of edits",
            subtitle,
            xaxis={**AXIS, **ticks, "domain": x_domain, "tickangle": -90 if room > CELL else 0},
            yaxis={**AXIS, **ticks, "domain": y_domain, "autorange": "reversed"},
        )
    )
    return figure
