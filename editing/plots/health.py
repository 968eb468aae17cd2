"""The whole model's state while edits pile up, a panel for each measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.series import divided, series_of
from tracer.errors import NothingToDraw
from tracer.plots.labels import escape
from tracer.plots.style import EDGE, LINE, SMALL, VALUES, Canvas, axis, in_layout, legend_height, small, wrapped

from .evaluation import checked, described
from .series import label, looks

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTH, PANEL, HEADING, BOTTOM, LEFT, RIGHT = 860, 170, 40, 26, 84, 30
ALARM = "#c33d1e"


def plot_health(evaluation: Evaluation) -> go.Figure:
    """Each measure of health against the number of edits, a line per method; dashed: its limit, crosses: alarms.

    Args:
        evaluation: the measurements.

    Raises:
        TracerError: anything but an evaluation; no health was measured.
    """
    import plotly.graph_objects as go

    checked("plot_health", evaluation)
    health = evaluation.health[np.isfinite(evaluation.health["value"])]
    if health.empty:
        raise NothingToDraw("no health of the model was measured, so that there is nothing to draw")
    measures = list(dict.fromkeys(health["measure"]))
    series = series_of(health)
    subtitle, lines = wrapped([described(evaluation), "dashed: limit", "crosses: beyond it"], WIDTH - 2 * EDGE)
    entries = [label(each) for each in series]
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height(entries, WIDTH) + 6
    canvas = Canvas(WIDTH, top + len(measures) * (HEADING + PANEL + BOTTOM) + 20)
    figure = go.Figure()
    found = looks(series, [*evaluation.metrics["method"], *health["method"]])
    most = max(1, int(health["after"].max()))
    for index, measure in enumerate(measures):
        rows = health[health["measure"] == measure]
        axes = {"xaxis": axis("x", index), "yaxis": axis("y", index)}
        for each, look, own in zip(series, found, divided(rows, series), strict=True):
            own = own.sort_values("after", kind="stable")
            alarms = [bool(alarm) for alarm in own["alarm"]]
            figure.add_trace(
                go.Scatter(
                    x=own["after"],
                    y=own["value"],
                    customdata=[" – beyond the limit" if alarm else "" for alarm in alarms],
                    hovertemplate="<b>%{fullData.name}</b><br>after %{x} edits: %{y:.4g}%{customdata}<extra></extra>",
                    mode="lines+markers",
                    line={"color": look.color, "dash": look.dash, "width": look.width},
                    marker={
                        "color": [ALARM if alarm else look.color for alarm in alarms],
                        "symbol": ["x" if alarm else "circle" for alarm in alarms],
                        "opacity": 1,
                        "size": [9 if alarm else 5 for alarm in alarms],
                    },
                    name=label(each),
                    legendgroup=label(each),
                    showlegend=index == 0,
                    **axes,
                )
            )
        limits = sorted({float(limit) for limit in rows["limit"] if np.isfinite(limit)})
        for limit in limits:
            line = {"color": ALARM, "width": 1.4, "dash": "dash"}
            place = {"xref": f"{axes['xaxis']} domain", "yref": axes["yaxis"], "x0": 0, "x1": 1}
            figure.add_shape({**place, "type": "line", "y0": limit, "y1": limit, "line": line, "layer": "below"})
        y = top + HEADING + index * (HEADING + PANEL + BOTTOM)
        x_domain, y_domain = canvas.domain(LEFT, y, WIDTH - LEFT - RIGHT, PANEL)
        last = index == len(measures) - 1
        figure.layout[in_layout(axes["xaxis"])] = {
            **VALUES,
            "domain": x_domain,
            "anchor": axes["yaxis"],
            "range": [-0.02 * most, 1.02 * most],
            "matches": "x" if index else None,
            "tickfont": SMALL,
            "title": {"text": "edits made" if last else "", "font": {"size": 12.5}, "standoff": 6},
        }
        figure.layout[in_layout(axes["yaxis"])] = {
            **VALUES,
            "zeroline": False,
            "domain": y_domain,
            "anchor": axes["xaxis"],
            "nticks": 5,
            "tickfont": SMALL,
        }
        beyond = int(rows["alarm"].sum())
        note = f"limit {', '.join(f'{limit:.4g}' for limit in limits)}" if limits else ""
        note += f", beyond it {beyond} times" if beyond and limits else ""
        figure.add_annotation(canvas.heading(LEFT, y, f"<b>{escape(measure)}</b> {small(note)}"))
    legend = {"showlegend": True, "legend": canvas.legend(entries, legend_top)}
    figure.update_layout(canvas.layout("Health of the edited model", subtitle, hovermode="closest", **legend))
    return figure
