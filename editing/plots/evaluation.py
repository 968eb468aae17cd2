"""Scores of every method: a panel for each measure, teacher forced and free generation side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.schema import Frame
from editing.evaluation.result.series import Series, divided, series_of
from editing.questions.question import MEASURES
from tracer.errors import NothingToDraw
from tracer.plots.labels import model_label
from tracer.plots.style import (
    EDGE,
    INK,
    LINE,
    QUIET,
    VALUES,
    Canvas,
    axis,
    in_layout,
    legend_height,
    see_through,
    small,
    text_width,
    wrapped,
)

from .series import label

if TYPE_CHECKING:
    import plotly.graph_objects as go

HOWS = {
    "forced": ("teacher forced", "#3b6ea5", -0.19),
    "generated": ("in free generation", "#b35c12", 0.19),
}
SCORE = ("score S", "#5b4a82")
PANEL, BETWEEN, RIGHT, ROW, HEADING, BOTTOM = 190, 26, 26, 38, 26, 44
NUMBERS = 0.27  # room for the numbers at the right of a panel, in units of its axis


def plot_evaluation(evaluation: Evaluation, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> go.Figure:
    """Bars of the harmonic score and of each measure that was taken, a row per method; controls are paler.

    Whiskers are bootstrap intervals over subjects. Missing measurements have no bar, and no number.

    Args:
        evaluation: the measurements.
        level: of the intervals.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        TracerError: anything but an evaluation, and one without any of the measures.
    """
    import plotly.graph_objects as go

    checked("plot_evaluation", evaluation)
    settings: dict[str, Any] = {"level": level, "resamples": resamples, "seed": seed}
    names = [f"{measure} ({how})" for measure in MEASURES for how in HOWS]
    summary, scores = evaluation.summary(metrics=names, **settings), evaluation.score(**settings)
    shown = [measure for measure in MEASURES if summary["metric"].str.startswith(f"{measure} (").any()]
    panels = ["score S"] * (len(scores) > 0) + shown
    if not panels:
        raise NothingToDraw(f"nothing to draw: no case has {', '.join(MEASURES)}, nor ES, PS and NS")
    series = series_of(summary if shown else scores)
    plan = _Plan(series, len(panels), _notes(evaluation, level), bool(shown))
    figure = go.Figure()
    for index, panel in enumerate(panels):
        if panel == "score S":
            _add_bars(figure, index, [(SCORE[0], SCORE[1], 0.0, divided(scores, series))], series)
        else:
            bars = []
            for how, (name, color, shift) in HOWS.items():
                one = summary[summary["metric"] == f"{panel} ({how})"]
                bars.append((name, color, shift, divided(one, series)))
            _add_bars(figure, index, bars, series, legend=panel == shown[0])
        _add_axes(figure, plan, index, panel)
    entries = {"showlegend": bool(shown), "legend": plan.canvas.legend(plan.entries, plan.legend_top)}
    figure.update_layout(
        plan.canvas.layout("What edits reach", plan.subtitle, barmode="overlay", hovermode="closest", **entries)
    )
    return figure


def checked(function: str, evaluation: Any) -> None:
    """Check that a figure is given an evaluation.

    Args:
        function: named in the message.
        evaluation: to be plotted.

    Raises:
        TracerError: not an evaluation.
    """
    if not isinstance(evaluation, Evaluation):
        raise NothingToDraw(f"{function} expected an Evaluation, got {type(evaluation).__name__}")


def described(evaluation: Evaluation) -> str:
    """Name of the model, and number of cases."""
    metrics = evaluation.metrics
    models = [model_label(model) for model in dict.fromkeys(metrics["model"])]
    cases, subjects = metrics["case_id"].nunique(), metrics["subject"].nunique()
    name = " and ".join(models) if len(models) < 3 else f"{len(models)} models"
    return f"{name}, {cases:,} case{'s' * (cases != 1)} about {subjects:,} subject{'s' * (subjects != 1)}"


class _Plan:
    """Layout, in pixels."""

    def __init__(self, series: list[Series], panels: int, notes: list[str], legend: bool) -> None:
        self.series = series
        self.left = int(EDGE + 12 + max(text_width(label(each), 12.5) for each in series))
        width = max(self.left + panels * PANEL + (panels - 1) * BETWEEN + RIGHT, 560)
        self.panel = (width - self.left - RIGHT - (panels - 1) * BETWEEN) // panels
        self.subtitle, lines = wrapped(notes, width - 2 * EDGE)
        self.entries = [name for name, _, _ in HOWS.values()]
        self.legend_top = 58 + LINE * lines
        self.top = self.legend_top + (legend_height(self.entries, width) if legend else 0) + 10 + HEADING
        self.height = ROW * len(series)
        self.canvas = Canvas(width, self.top + self.height + BOTTOM)


def _add_bars(
    figure: go.Figure,
    index: int,
    bars: list[tuple[str, str, float, list[Frame]]],
    series: list[Series],
    legend: bool = False,
) -> None:
    """Bars of one panel: name, colour, place beside the row's middle, and of each series its one row or nothing."""
    import plotly.graph_objects as go

    thick = 0.34 if len(bars) > 1 else 0.5
    for name, color, shift, rows in bars:
        there = [place for place, row in enumerate(rows) if len(row)]
        mean, low, high = (
            np.array([float(rows[place][column].iloc[0]) for place in there]) for column in ("mean", "low", "high")
        )
        axes: dict[str, Any] = {"xaxis": axis("x", index), "yaxis": axis("y", index)}
        figure.add_trace(
            go.Bar(
                x=mean,
                y=[place + shift for place in there],
                width=thick,
                orientation="h",
                marker={
                    "color": [see_through(color, 0.45) if series[place].compared else color for place in there],
                    "line": {"width": 0},
                },
                error_x={
                    "array": high - mean,
                    "arrayminus": mean - low,
                    "color": "#4a4a55",
                    "thickness": 1,
                    "width": 2,
                },
                customdata=[
                    f"<b>{label(series[place])}</b><br>{name}: {_percent(a)}{_interval(b, c)}"
                    f"<br>{int(rows[place]['n'].iloc[0]):,} cases"
                    for place, a, b, c in zip(there, mean, low, high, strict=True)
                ],
                hovertemplate="%{customdata}<extra></extra>",
                name=name,
                legendgroup=name,
                showlegend=False,
                **axes,
            )
        )
        figure.add_trace(
            go.Scatter(
                x=[1 + NUMBERS - 0.01] * len(there),
                y=[place + shift for place in there],
                text=[f"{100 * value:.1f}" for value in mean],
                mode="text",
                textposition="middle left",
                textfont={"size": 11.5, "color": color if len(bars) > 1 else INK},
                hoverinfo="skip",
                showlegend=False,
                **axes,
            )
        )
        if legend:  # an entry of full colour, whatever the first bar is
            entry = {"color": color, "symbol": "square", "size": 11}
            figure.add_trace(
                go.Scatter(x=[None], y=[None], mode="markers", marker=entry, name=name, legendgroup=name, **axes)
            )


def _add_axes(figure: go.Figure, plan: _Plan, index: int, panel: str) -> None:
    left = plan.left + index * (plan.panel + BETWEEN)
    x_domain, y_domain = plan.canvas.domain(left, plan.top, plan.panel, plan.height)
    figure.layout[in_layout(axis("x", index))] = {
        **VALUES,
        "domain": x_domain,
        "anchor": axis("y", index),
        "range": [-0.01, 1 + NUMBERS],
        "tickvals": [0, 0.25, 0.5, 0.75, 1],
        "ticktext": ["0 %", "", "50", "", "100"],
        "tickfont": {"size": 11.5, "color": QUIET},
    }
    figure.layout[in_layout(axis("y", index))] = {
        **VALUES,
        "showgrid": False,
        "zeroline": False,
        "domain": y_domain,
        "anchor": axis("x", index),
        "range": [len(plan.series) - 0.5, -0.5],
        "tickvals": list(range(len(plan.series))),
        "ticktext": [label(each) if not each.compared else small(label(each)) for each in plan.series],
        "showticklabels": index == 0,
        "tickfont": {"size": 12.5},
    }
    figure.add_annotation(plan.canvas.heading(left, plan.top, f"<b>{panel}</b>"))


def _notes(evaluation: Evaluation, level: float) -> list[str]:
    return [
        described(evaluation),
        "means over cases",
        f"whiskers: {100 * level:.4g} % bootstrap intervals over subjects",
        "paler: what methods are compared with",
    ]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(low: float, high: float) -> str:
    return f" [{100 * low:.1f}, {100 * high:.1f}]" if np.isfinite([low, high]).all() else ""
