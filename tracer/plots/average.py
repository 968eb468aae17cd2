"""Average effects over many facts, as in Meng et al. 2022 (ROME), figure 2: lines with intervals, and heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import NothingToDraw

from .average_plan import BETWEEN, CURVES, STRONG, Plan, line_of, percent, rank, row_label, shown
from .fit import Arrangement, arrange, axis_title, tick_room, widths
from .labels import escape, x_title
from .style import AXIS, COLORS, SMALL, VALUES, axis, in_layout, layer_ticks, see_through

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracer.tracing.average_trace import AverageTrace


def plot_average(average: AverageTrace | Sequence[AverageTrace], width: int | None = None) -> go.Figure:
    """Average indirect effects against layer, above the same numbers as a heat map; one column for each result.

    The upper panels have one line for each class of tokens with the band of its interval, which may reach below zero;
    the lower ones the classes as rows. Columns with the same metric share their scales; the colours begin at 0, so that
    an effect below it is as pale as an effect of 0 (its number is in the hover text). A class without tokens is left
    blank, and out of the legend.

    Args:
        average: one result, or several.
        width: pixels the figure may take, as for [`tracer.plot_trace`][].

    Raises:
        TracerError: an empty sequence, or anything but averages.
    """
    import plotly.graph_objects as go

    averages = _as_list(average)
    plans = dict.fromkeys(Plan.of(averages, each) for each in widths(width))
    figure = go.Figure()
    named: set[str] = set()  # classes that have their entry in the legend
    for index in range(len(averages)):
        _add_curves(figure, averages, index, named)
        _add_heat_map(figure, averages, index)
    return arrange(figure, [_arrangement(averages, plan) for plan in plans])


def _arrangement(averages: Sequence[AverageTrace], plan: Plan) -> Arrangement:
    """Titles, axes, legend and colour bars as planned."""
    canvas = plan.canvas
    axes: dict[str, Any] = {}
    headings, bars = [], []
    for index, text in enumerate(plan.headings):
        x, y = plan.place(index)
        axes |= _curve_axes(averages, plan, index) | _heat_axes(averages, plan, index)
        headings.append(canvas.heading(x, y, text))
        bars.append(canvas.color_bar(x + plan.panel, y + CURVES + BETWEEN, plan.heat, "average effect"))
    legend = {"showlegend": True, "legend": canvas.legend(plan.entries, plan.legend_top)} if plan.entries else {}
    layout = canvas.layout(plan.title, plan.subtitle, annotations=headings, **axes, **legend)
    return Arrangement(layout, tuple(bars))


def _add_curves(figure: go.Figure, averages: Sequence[AverageTrace], index: int, named: set[str]) -> None:
    import plotly.graph_objects as go

    average = averages[index]
    x_axis, y_axis = axis("x", 2 * index), axis("y", 2 * index)
    layers = np.asarray(average.layers)
    present = [c for c in average.classes if shown(average, c)]
    for name in sorted(present, key=lambda c: line_of(c).width >= STRONG):
        row, line = average.classes.index(name), line_of(name)
        effect, low, high = (np.asarray(a, float)[row] for a in (average.effect, average.low, average.high))
        common = {"legendgroup": escape(name), "xaxis": x_axis, "yaxis": y_axis}
        if np.isfinite([low, high]).all():
            figure.add_trace(
                go.Scatter(
                    x=np.concatenate([layers, layers[::-1]]),
                    y=np.concatenate([high, low[::-1]]),
                    fill="toself",
                    fillcolor=see_through(line.color, 0.16),
                    line={"width": 0},
                    mode="lines",
                    hoverinfo="skip",
                    showlegend=False,
                    **common,
                )
            )
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=effect,
                customdata=np.stack([low, high], axis=-1),
                meta=[escape(name), int(np.asarray(average.tokens)[row]), percent(average.confidence)],
                hovertemplate="<b>%{meta[0]}</b>, layer %{x}<br>effect %{y:+.4f}<br>"
                "%{meta[2]} interval %{customdata[0]:+.4f} to %{customdata[1]:+.4f}<br>"
                "%{meta[1]:,} tokens pooled<extra></extra>",
                mode="lines+markers" if len(layers) <= 16 else "lines",
                line={"color": line.color, "width": line.width, "dash": line.dash},
                marker={"size": 4 + line.width, "symbol": line.symbol, "color": line.color},
                # of a single layer there is no band to see
                error_y={"array": high - effect, "arrayminus": effect - low, "visible": len(layers) == 1},
                name=escape(name),
                legendrank=rank(name),
                showlegend=name not in named,
                **common,
            )
        )
        named.add(name)


def _curve_axes(averages: Sequence[AverageTrace], plan: Plan, index: int) -> dict[str, Any]:
    average = averages[index]
    x_axis, y_axis = axis("x", 2 * index), axis("y", 2 * index)
    x_domain, y_domain = plan.canvas.domain(*plan.place(index), plan.panel, CURVES)
    first = next(i for i, a in enumerate(averages) if a.metric == average.metric)
    beside = index % plan.columns == 0 or averages[index - 1].metric != average.metric
    return {
        in_layout(x_axis): {
            **AXIS,
            "domain": x_domain,
            "anchor": y_axis,
            "range": [min(average.layers) - 0.5, max(average.layers) + 0.5],
            "matches": axis("x", 2 * index + 1),
            "showticklabels": False,
        },
        in_layout(y_axis): {
            **VALUES,
            "domain": y_domain,
            "anchor": x_axis,
            "range": _value_range([a for a in averages if a.metric == average.metric]),
            "matches": axis("y", 2 * first) if first != index else None,
            "nticks": 7,
            "tickfont": SMALL,
            "showticklabels": beside,
            "title": {"text": "average indirect effect" if index % plan.columns == 0 else "", "font": {"size": 12.5}},
        },
    }


def _add_heat_map(figure: go.Figure, averages: Sequence[AverageTrace], index: int) -> None:
    import plotly.graph_objects as go

    average = averages[index]
    layers = list(range(min(average.layers), max(average.layers) + 1))
    columns = [layer - layers[0] for layer in average.layers]
    z = np.full((len(average.classes), len(layers)), np.nan)
    z[:, columns] = average.effect
    texts = np.full((*z.shape, 2), None, dtype=object)
    for row, name in enumerate(average.classes):
        pooled = f"{int(np.asarray(average.tokens)[row]):,} tokens pooled"
        for column, place in enumerate(columns):
            low, high = float(average.low[row, column]), float(average.high[row, column])
            interval = f"{percent(average.confidence)} interval {low:+.4f} to {high:+.4f}"
            texts[row, place] = escape(name), f"{interval}<br>{pooled}"
    end, falling = _color_end([a for a in averages if a.metric == average.metric])
    gap = 1 if len(layers) <= 24 else 0
    figure.add_trace(
        go.Heatmap(
            z=z,
            x=layers,
            y=list(range(len(average.classes))),
            customdata=texts,
            hovertemplate="<b>%{customdata[0]}</b>, layer %{x}<br>effect %{z:+.4f}<br>%{customdata[1]}<extra></extra>",
            hoverongaps=False,
            colorscale=COLORS.get(average.kind, "Blues"),
            reversescale=falling,
            zmin=min(end, 0.0),
            zmax=max(end, 0.0),
            xgap=gap,
            ygap=gap,
            xaxis=axis("x", 2 * index + 1),
            yaxis=axis("y", 2 * index + 1),
        )
    )


def _heat_axes(averages: Sequence[AverageTrace], plan: Plan, index: int) -> dict[str, Any]:
    average = averages[index]
    x_axis, y_axis = axis("x", 2 * index + 1), axis("y", 2 * index + 1)
    x, y = plan.place(index)
    x_domain, y_domain = plan.canvas.domain(x, y + CURVES + BETWEEN, plan.panel, plan.heat)
    layers = list(range(min(average.layers), max(average.layers) + 1))
    return {
        in_layout(x_axis): {
            **AXIS,
            "domain": x_domain,
            "anchor": y_axis,
            "range": [layers[0] - 0.5, layers[-1] + 0.5],
            "tickvals": layer_ticks(layers, tick_room(layers, plan.panel)),
            "tickfont": SMALL,
            "title": axis_title(x_title(average), plan.panel)[0],
        },
        in_layout(y_axis): {
            **AXIS,
            "domain": y_domain,
            "anchor": x_axis,
            "range": [len(average.classes) - 0.5, -0.5],
            "tickvals": list(range(len(average.classes))),
            "ticktext": [row_label(name) for name in average.classes],
            "tickfont": {"size": 13},
            "ticklabelstandoff": 5,
            "showticklabels": index % plan.columns == 0,
        },
    }


# --- ranges ----------------------------------------------------------------------------------------------------------
def _value_range(averages: Sequence[AverageTrace]) -> list[float]:
    """Range of the y axis: zero, and every end of every interval."""
    values = np.concatenate([np.ravel(v) for a in averages for v in (a.effect, a.low, a.high)]).astype(float)
    values = values[np.isfinite(values)]
    low, high = min(values.min(initial=0.0), 0.0), max(values.max(initial=0.0), 0.0)
    pad = 0.05 * (high - low) or 0.05
    return [low - pad, high + pad]


def _color_end(averages: Sequence[AverageTrace]) -> tuple[float, bool]:
    """The effect of the darkest colour, and whether it lies below zero (a distance, such as KL, falls)."""
    effects = np.concatenate([np.ravel(a.effect) for a in averages]).astype(float)
    effects = effects[np.isfinite(effects)]
    total = sum(abs(a.total_effect) for a in averages) / len(averages)
    # rounding noise of results without any effect must not fill the whole scale
    least = max(0.02 * total, 1e-6) if np.isfinite(total) else 1e-6
    if sum(a.total_effect for a in averages) < 0:
        return min(effects.min(initial=0.0), -least), True
    return max(effects.max(initial=0.0), least), False


def _as_list(average: AverageTrace | Sequence[AverageTrace]) -> list[AverageTrace]:
    averages: list[AverageTrace] = list(average) if isinstance(average, Sequence) else [average]
    if not averages:
        raise NothingToDraw("plot_average got an empty list; pass one AverageTrace or a list of them")
    for each in averages:
        if not hasattr(each, "classes") or not hasattr(each, "effect"):
            raise NothingToDraw(f"plot_average expected an AverageTrace or a list of them, got {type(each).__name__}")
    return averages
