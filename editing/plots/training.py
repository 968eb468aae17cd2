"""The history of a training: losses in one panel, what is right of held-out records in the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from editing.prepared.prepared import Prepared
from tracer.errors import NothingToDraw, UnsuitableResult
from tracer.plots.labels import escape
from tracer.plots.style import EDGE, LINE, SMALL, VALUES, Canvas, axis, in_layout, legend_height, wrapped

from .series import COLORS, DASHES

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

WIDTH, PANEL, HEADING, BOTTOM, LEFT, RIGHT = 860, 220, 40, 30, 84, 30
STEP = "step"
LOSS = "loss"
PANELS = {"losses, means since the last point": True, "shares of held-out records": False}


def plot_training(prepared: Prepared) -> go.Figure:
    """The history of what was prepared by training, a line per number, against the step.

    Args:
        prepared: with a history.

    Raises:
        TracerError: anything but a [`editing.Prepared`][]; one that was not trained.
    """
    import plotly.graph_objects as go

    if not isinstance(prepared, Prepared):
        raise UnsuitableResult(
            f"plot_training draws what editing.prepare gave, not {type(prepared).__name__}; read a file with "
            "editing.load_prepared"
        )
    history = prepared.to_frame()
    names = [str(name) for name in history.columns if name != STEP]
    if not names or len(history) < 2:
        raise NothingToDraw(f"what was prepared for {prepared.method} has no history of a training to be drawn")
    colors = {name: COLORS[place % len(COLORS)] for place, name in enumerate(names)}
    told = [f"{prepared.method} on {escape(prepared.model)}", f"{prepared.seconds:.0f} s"]
    subtitle, lines = wrapped([*told, *filter(None, [escape(prepared.note)])], WIDTH - 2 * EDGE)
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height([escape(name) for name in names], WIDTH) + 6
    panels = {title: own for title, lossy in PANELS.items() if (own := [n for n in names if _is_loss(n) == lossy])}
    canvas = Canvas(WIDTH, top + len(panels) * (HEADING + PANEL + BOTTOM) + 20)
    figure = go.Figure()
    for index, (title, own) in enumerate(panels.items()):
        axes = {"xaxis": axis("x", index), "yaxis": axis("y", index)}
        for name in own:
            steps, values = _line(history, name)
            figure.add_trace(
                go.Scatter(
                    x=steps,
                    y=values,
                    mode="lines+markers",
                    hovertemplate="<b>%{fullData.name}</b><br>after %{x} steps: %{y:.4g}<extra></extra>",
                    line={"color": colors[name], "width": 2.2, "dash": DASHES[names.index(name) // len(COLORS) % 3]},
                    marker={"color": colors[name], "size": 5},
                    name=escape(name),
                    **axes,
                )
            )
        y = top + HEADING + index * (HEADING + PANEL + BOTTOM)
        x_domain, y_domain = canvas.domain(LEFT, y, WIDTH - LEFT - RIGHT, PANEL)
        last = index == len(panels) - 1
        figure.layout[in_layout(axes["xaxis"])] = {
            **VALUES,
            "domain": x_domain,
            "anchor": axes["yaxis"],
            "matches": "x" if index else None,
            "tickfont": SMALL,
            "title": {"text": "steps" if last else "", "font": {"size": 12.5}, "standoff": 6},
        }
        figure.layout[in_layout(axes["yaxis"])] = {
            **VALUES,
            "domain": y_domain,
            "anchor": axes["xaxis"],
            "nticks": 5,
            "tickfont": SMALL,
            "rangemode": "tozero",
        }
        figure.add_annotation(canvas.heading(LEFT, y, f"<b>{escape(title)}</b>"))
    legend = {"showlegend": True, "legend": canvas.legend([escape(name) for name in names], legend_top)}
    figure.update_layout(canvas.layout("Training", subtitle, hovermode="closest", **legend))
    return figure


def _is_loss(name: str) -> bool:
    return name.endswith(LOSS)


def _line(history: pd.DataFrame, name: str) -> tuple[list[float | None], list[float | None]]:
    """Steps and values of a number where it was measured; a gap where another training begins."""
    steps: list[float | None] = []
    values: list[float | None] = []
    for step, value in history[[STEP, name]].dropna().itertuples(index=False):
        if steps and steps[-1] is not None and step <= steps[-1]:
            steps.append(None)
            values.append(None)
        steps.append(float(step))
        values.append(float(value))
    return steps, values
