"""Layers that recall facts and layers where edits work, one panel under the other over the same layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from editing.layers.located import USING, Located, check_one_model
from tracer.errors import NothingToDraw
from tracer.plots.labels import model_label
from tracer.plots.style import AXIS, EDGE, SMALL, VALUES, axis, in_layout, layer_ticks, see_through

from .locate_plan import LEFT, PANEL, RIGHT, Plan

if TYPE_CHECKING:
    import plotly.graph_objects as go

# evidence, colours of layers in the window and outside of it, name of the axis
BARS = {
    "trace": ("effect", "#4aa564", "#b7dcc1", "indirect effect"),
    "neurons": ("mass", "#2f8f9d", "#acd2d8", "attribution"),
    "change": ("ease", "#8a5fb0", "#cfbde0", "|weight| / |change|"),
}
# later ones are drawn above: thinner, so that equal shares leave all of them to be seen
LINES = {
    "reliability": ("#c33d1e", 4.0, "circle"),
    "generalisation": ("#e0a11b", 2.6, "diamond"),
    "locality": ("#173f74", 1.6, "square"),
}
BEST, SHADE = "#6b6b76", "#f3f1ea"


def plot_locate(located: Located | Sequence[Located]) -> go.Figure:
    """Evidence per layer, a panel each: effects or attributions as bars, success of edits as lines.

    Whiskers and bands are 95 % intervals over subjects, where there are several; pale horizontal lines are a sweep's
    measures before any edit. The line under the title has the rank correlations (Spearman's, over layers) between the
    panels' profiles, see `Located.profile`.

    Args:
        located: one result, or several about one model.

    Raises:
        TracerError: an empty list, anything else, and evidence about different models.
    """
    import plotly.graph_objects as go

    several = _checked(located)
    plan = Plan.of(several)
    figure = go.Figure()
    named: set[str] = set()  # lines that have their entry in the legend
    for index, each in enumerate(several):
        _mark(figure, each, axis("x", index), axis("y", index))
        if each.using == "sweep":
            _add_lines(figure, each, index, named)
        else:
            _add_bars(figure, each, index)
        _add_axes(figure, plan, each, index, last=index == len(several) - 1)
    legend = {"showlegend": True, "legend": plan.canvas.legend(plan.entries, plan.legend_top)} if plan.entries else {}
    figure.update_layout(plan.canvas.layout(plan.title, plan.subtitle, bargap=0.25, **legend))
    figure.add_annotation(
        {
            **plan.canvas.heading(EDGE, plan.canvas.height - 14, plan.caption),
            "yshift": 0,
            "font": SMALL,
        }
    )
    return figure


# --- marks -----------------------------------------------------------------------------------------------------------
def _mark(figure: go.Figure, each: Located, x_axis: str, y_axis: str) -> None:
    """The window as a shade behind the panel, the best layer as a dotted line."""
    place = {"xref": x_axis, "yref": f"{y_axis} domain", "y0": 0, "y1": 1, "layer": "below"}
    ends = {"x0": each.window[0] - 0.5, "x1": each.window[-1] + 0.5}
    figure.add_shape({**place, **ends, "type": "rect", "fillcolor": SHADE, "line": {"width": 0}})
    best = each.layers[0]
    line = {"color": BEST, "width": 1, "dash": "dot"}
    figure.add_shape({**place, "type": "line", "x0": best, "x1": best, "line": line})


def _add_bars(figure: go.Figure, each: Located, index: int) -> None:
    import plotly.graph_objects as go

    name, color, pale, title = BARS[each.using]
    mean, low, high = each.mean(name)
    layers = np.flatnonzero(~np.isnan(mean))
    mean, low, high = mean[layers], low[layers], high[layers]
    counts = [""] * len(layers)
    if "count" in each.evidence:
        many = each.mean("count")[0][layers]
        cut = each.settings.get("threshold", 0.0)
        counts = [f"<br>{count:.4g} neurons per fact above {100 * cut:g} % of the highest" for count in many]
    if "change" in each.evidence:
        sizes = each.mean("change")[0][layers]
        counts = [f"<br>ROME changes the weight by {size:.3g} times its norm" for size in sizes]
    figure.add_trace(
        go.Bar(
            x=layers,
            y=mean,
            error_y={
                "array": high - mean,
                "arrayminus": mean - low,
                "visible": _spread(each),
                "color": "#4a4a55",
                "thickness": 1,
                "width": 2,
            },
            customdata=[_interval(each, a, b) + more for a, b, more in zip(low, high, counts, strict=True)],
            hovertemplate=f"<b>layer %{{x}}</b><br>{title} %{{y:+.4f}}%{{customdata}}<extra></extra>",
            marker={
                "color": [color if layer in each.window else pale for layer in layers],
                "line": {"width": 0},
            },
            showlegend=False,
            xaxis=axis("x", index),
            yaxis=axis("y", index),
        )
    )


def _add_lines(figure: go.Figure, each: Located, index: int, named: set[str]) -> None:
    import plotly.graph_objects as go

    axes = {"xaxis": axis("x", index), "yaxis": axis("y", index)}
    for name, (color, width, symbol) in LINES.items():
        mean, low, high = each.mean(name)
        layers = np.flatnonzero(~np.isnan(mean))
        if not len(layers):
            continue
        mean, low, high = mean[layers], low[layers], high[layers]
        if _spread(each) and np.isfinite([low, high]).all() and len(layers) > 1:
            figure.add_trace(
                go.Scatter(
                    x=np.concatenate([layers, layers[::-1]]),
                    y=np.concatenate([high, low[::-1]]),
                    fill="toself",
                    fillcolor=see_through(color, 0.14),
                    line={"width": 0},
                    mode="lines",
                    hoverinfo="skip",
                    showlegend=False,
                    **axes,
                )
            )
        before = _before(each, name)
        margin = each.evidence.get(f"{name} margin")
        margins = np.full(each.n_layers, np.nan) if margin is None else each.mean(f"{name} margin")[0]
        notes = [
            _interval(each, a, b, "%")
            + ("" if np.isnan(before) else f"<br>unedited {before:.1%}")
            + ("" if np.isnan(m) else f"<br>margin {m:+.4f}")
            for a, b, m in zip(low, high, margins[layers], strict=True)
        ]
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=mean,
                customdata=notes,
                hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>%{{y:.1%}} of prompts%{{customdata}}<extra></extra>",
                mode="lines+markers" if len(layers) <= 24 else "lines",
                line={"color": color, "width": width},
                marker={"size": 5 + width, "symbol": symbol, "color": color},
                name=name,
                legendgroup=name,
                legendrank=1 + USING["sweep"].index(name),
                showlegend=name not in named,
                **axes,
            )
        )
        named.add(name)
        if not np.isnan(before):
            figure.add_trace(
                go.Scatter(
                    x=[-0.5, each.n_layers - 0.5],
                    y=[before, before],
                    mode="lines",
                    line={"color": see_through(color, 0.5), "width": 1.2, "dash": "dash"},
                    hoverinfo="skip",
                    name="unedited",
                    legendgroup="unedited",
                    legendrank=1 + len(USING["sweep"]),
                    showlegend="unedited" not in named,
                    **axes,
                )
            )
            named.add("unedited")


def _add_axes(figure: go.Figure, plan: Plan, each: Located, index: int, last: bool) -> None:
    y = plan.y(index)
    x_domain, y_domain = plan.canvas.domain(LEFT, y, plan.canvas.width - LEFT - RIGHT, PANEL)
    sweep = each.using == "sweep"
    title = f"layer of {model_label(each.model)}"
    figure.layout[in_layout(axis("x", index))] = {
        **AXIS,
        "domain": x_domain,
        "anchor": axis("y", index),
        "range": [-0.6, each.n_layers - 0.4],
        "matches": "x" if index else None,
        "tickvals": layer_ticks(plan.layers, room=26),
        "tickfont": SMALL,
        "showticklabels": last,
        "title": {"text": title if last else "", "font": {"size": 12.5}, "standoff": 8},
    }
    figure.layout[in_layout(axis("y", index))] = {
        **VALUES,
        "domain": y_domain,
        "anchor": axis("x", index),
        "nticks": 6,
        "tickfont": SMALL,
        **({"range": [-0.04, 1.04], "tickformat": ".0%"} if sweep else {}),
        "title": {"text": "share of prompts" if sweep else BARS[each.using][3], "font": {"size": 12.5}},
    }
    figure.add_annotation(plan.canvas.heading(LEFT, y, plan.headings[index]))


def _spread(each: Located) -> bool:
    """Whether there are intervals to show."""
    return len(set(each.subjects)) > 1


def _interval(each: Located, low: float, high: float, form: str = "") -> str:
    if not _spread(each) or not np.isfinite([low, high]).all():
        return ""
    ends = f"{low:.1%} to {high:.1%}" if form else f"{low:+.4f} to {high:+.4f}"
    return f"<br>95 % interval {ends}"


def _before(each: Located, name: str) -> float:
    values = np.asarray(each.unedited.get(name, [np.nan]), dtype=float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _checked(located: Any) -> list[Located]:
    several = list(located) if isinstance(located, list | tuple) else [located]
    if not several:
        raise NothingToDraw("plot_locate got an empty list; pass a Located or a list of them")
    for each in several:
        if not isinstance(each, Located):
            raise NothingToDraw(f"plot_locate expected a Located or a list of them, got {type(each).__name__}")
    check_one_model(several)
    return several
