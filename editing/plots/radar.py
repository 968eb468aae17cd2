"""Profile of each method over the measures, on one disc."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.former_names import asked_for
from editing.evaluation.result.schema import UNEDITED, Frame
from editing.evaluation.result.series import Series, divided, series_of
from editing.questions.metrics import shown
from editing.questions.question import MEASURES
from tracer.errors import EmptySelection, NothingToDraw
from tracer.plots.style import EDGE, FRAME, LINE, QUIET, Canvas, legend_height, see_through, wrapped

from .evaluation import HOWS, checked, described
from .series import label, looks

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTH, DISC, AROUND = 640, 400, 62


def plot_radar(evaluation: Evaluation, *, by: str = "generated", controls: bool = False) -> go.Figure:
    """Means of the measures that were taken, and fluency and consistency of generated text; one line per method.

    The rim is 100 %. Measures are shares of questions. Fluency (entropy of n-grams) is a share of the unedited model's,
    cut at the rim, and left out where that was not measured; consistency is a cosine as it is. A line has a gap where
    something was not measured; methods with fewer than three points are left out. Lines are means alone; intervals are
    in [`editing.plot_evaluation`][].

    Args:
        evaluation: the measurements.
        by: "generated", free generation, or "forced", teacher forced.
        controls: also draw random layers and directions.

    Raises:
        TracerError: anything but an evaluation, another `by`, and fewer than three measures.
    """
    import plotly.graph_objects as go

    checked("plot_radar", evaluation)
    by = asked_for(by)
    if by not in HOWS:
        raise EmptySelection(f"by is {by!r}; expected one of {', '.join(HOWS)}")
    names = [f"{measure} ({by})" for measure in MEASURES]
    summary = evaluation.summary(metrics=[*names, *(metric.name for metric in shown("radar"))], resamples=1)
    series = [each for each in series_of(summary) if controls or not each.control]
    values, titles = _profiles(summary, series, names)
    enough = [place for place, row in enumerate(values) if np.isfinite([value for _, value in row]).sum() > 2]
    series, values = [series[place] for place in enough], [values[place] for place in enough]
    if len(titles) < 3 or not series:
        there = ", ".join(sorted(summary["metric"].unique())) or "nothing"
        raise NothingToDraw(
            f"a disc needs three things measured of one method, and there are not so many ({by}: {there}); "
            "use plot_evaluation"
        )
    notes = [described(evaluation), f"shares of questions, {HOWS[by][0]}", "rim: 100 %, middle: 0"]
    subtitle, lines = wrapped(notes, WIDTH - 2 * EDGE)
    entries = [label(each) for each in series]
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height(entries, WIDTH) + AROUND
    canvas = Canvas(WIDTH, top + DISC + AROUND)
    figure = go.Figure()
    round_again = [*range(len(titles)), 0]
    for each, look, row in zip(series, looks(series, evaluation.metrics["method"]), values, strict=True):
        figure.add_trace(
            go.Scatterpolar(
                r=[None if np.isnan(row[place][1]) else row[place][1] for place in round_again],
                theta=[titles[place] for place in round_again],
                customdata=[f"<b>{label(each)}</b><br>{titles[place]}<br>{row[place][0]}" for place in round_again],
                mode="lines+markers",
                line={"color": look.color, "dash": look.dash, "width": look.width},
                marker={"color": look.color, "size": 6},
                fill=None if each.compared else "toself",
                fillcolor=see_through(look.color, 0.06),
                name=label(each),
                hovertemplate="%{customdata}<extra></extra>",
            )
        )
    x_domain, y_domain = canvas.domain((WIDTH - DISC) / 2, top, DISC, DISC)
    polar: dict[str, Any] = {
        "domain": {"x": x_domain, "y": y_domain},
        "bgcolor": "rgba(0,0,0,0)",
        "angularaxis": {
            "direction": "clockwise",
            "rotation": 90,
            "gridcolor": FRAME,
            "linecolor": FRAME,
            "tickfont": {"size": 12.5},
        },
        "radialaxis": {
            "range": [0, 1],
            "tickvals": [0.25, 0.5, 0.75, 1],
            "ticktext": ["25", "50", "75", "100 %"],
            "tickfont": {"size": 10.5, "color": QUIET},
            "angle": 90 - 180 / len(titles),  # between two axes
            "tickangle": 90 - 180 / len(titles),  # counted from the axis: level
            "gridcolor": "#ececf0",
            "linecolor": "rgba(0,0,0,0)",
        },
    }
    legend = {"showlegend": True, "legend": canvas.legend(entries, legend_top)}
    figure.update_layout(canvas.layout("Profiles of methods", subtitle, polar=polar, **legend))
    return figure


def _profiles(
    summary: Frame, series: list[Series], names: list[str]
) -> tuple[list[list[tuple[str, float]]], list[str]]:
    """Of each series and axis the hover text and the place of the line (nan: no point); and the axes' titles."""
    means = [rows.set_index("metric")["mean"] for rows in divided(summary, series)]
    axes: list[tuple[str, list[tuple[str, float]]]] = []
    for name in names:
        of = [float(mean.get(name, np.nan)) for mean in means]
        axes.append((name.partition(" (")[0], [(f"{100 * value:.1f} %", value) for value in of]))
    for metric in shown("radar"):
        of = [float(mean.get(metric.name, np.nan)) for mean in means]
        if metric.unit in ("share", "cosine"):
            title = f"{metric.name},<br>{metric.unit}"
            axes.append((title, [(f"{metric.unit} {value:.4f}", value) for value in of]))
            continue
        whole = {each.key[0]: value for each, value in zip(series, of, strict=True) if each.method == UNEDITED}
        points = []
        for each, value in zip(series, of, strict=True):
            unedited = whole.get(each.key[0], np.nan)
            part = value / unedited if unedited > 0 else np.nan
            points.append((f"{value:.4g}, {100 * part:.1f} % of the unedited model's {unedited:.4g}", min(part, 1.0)))
        axes.append((f"{metric.name},<br>of the unedited", points))
    there = [(title, points) for title, points in axes if np.isfinite([value for _, value in points]).any()]
    return [[points[place] for _, points in there] for place in range(len(series))], [title for title, _ in there]
