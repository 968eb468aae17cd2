"""Places of one fact's knowledge neurons in the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .labels import escape, headline, model_label, token_label
from .layers import BAR_COLOR, above, checked, how, threshold_of
from .style import AXIS, BAR_ROOM, EDGE, INK, LINE, QUIET, SMALL, Canvas, axis, in_layout, layer_ticks, small, wrapped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracer.neurons.attribution import NeuronAttribution

LEFT, OVERVIEW, RANK, COUNTS, BETWEEN, RIGHT, BOTTOM = 62, 512, 30, 150, 22, 24, 60
COLUMNS = 256  # of the overview: two pixels each
RANKS = 8
NEGATIVE = 0.05  # negative scores are worth a colour of their own from this share of the highest score on


def plot_neurons(attribution: NeuronAttribution, n: int = 20, threshold: float | None = None) -> go.Figure:
    """The scores of all neurons for one fact, the highest of each layer, and how many lie above a threshold.

    Layers are rows, the first at the bottom. Left: neurons by index, each column of the picture the score of largest
    magnitude among so many neighbours that at most 256 columns remain, so that a single strong neuron is seen in any
    width; rings mark the `n` highest scores. Middle: the highest scores of each layer, with the neurons' indices.
    Right: neurons above the threshold. Colours have two sides only where negative scores matter (5 % of the highest).

    Args:
        attribution: the scores.
        n: how many scores are ringed.
        threshold: as in `attribution.above`; by default 0.2 of the highest score (Dai et al. 2022), and for an
            activation contrast 3 standard deviations.

    Raises:
        TracerError: anything but an attribution, or n and thresholds out of range.
    """
    import plotly.graph_objects as go

    (each,) = checked("plot_neurons", [attribution])
    cut = threshold_of(each, threshold)
    top, counts = each.top(n), np.asarray(each.per_layer(cut))
    n_layers, n_neurons = each.scores.shape
    row = 28 if n_layers <= 12 else 18 if n_layers <= 26 else 12
    height = max(row * n_layers, 170)
    ranks = min(RANKS, n_neurons)
    starts = np.cumsum([LEFT, OVERVIEW + BETWEEN, RANK * ranks + BAR_ROOM + BETWEEN])
    widths = (OVERVIEW, RANK * ranks, COUNTS)
    width = int(starts[-1]) + COUNTS + RIGHT
    subtitle, lines = wrapped(_facts_of(each, cut, int(counts.sum()), len(top)), width - 2 * EDGE)
    canvas = Canvas(width, 118 + LINE * (lines - 1) + height + BOTTOM)
    y = canvas.height - BOTTOM - height
    figure = go.Figure()
    size = -(-n_neurons // COLUMNS)
    figure.add_trace(_overview(each, size))
    figure.add_trace(_rings(each, top))
    figure.add_trace(_ranked(each, ranks, 11 if row > 12 else 9))
    figure.add_trace(_bars(each, cut, counts, 11 if row > 12 else 9))
    title = headline(each.prompt, each.answer, (width - 2 * EDGE) // 10)
    bar = canvas.color_bar(starts[1] + widths[1], y, height, _unit(each))
    figure.update_layout(
        canvas.layout(title, subtitle, coloraxis=_colors(each) | {"colorbar": bar}, hovermode="closest")
    )
    names = ("neuron", "rank within the layer", "neurons")
    ranges = ([-0.5, n_neurons - 0.5], [0.5, ranks + 0.5], [0, 1.25 * max(int(counts.max()), 1)])
    for index in range(3):
        x_domain, y_domain = canvas.domain(float(starts[index]), y, widths[index], height)
        figure.layout[in_layout(axis("x", index))] = {
            **AXIS,
            "domain": x_domain,
            "anchor": axis("y", index),
            "range": ranges[index],
            "nticks": (12, RANKS, 5)[index],
            "dtick": 1 if ranges[index][1] < 12 - 6 * (index == 2) else None,  # no halves of neurons
            "tickformat": ",d",
            "tickfont": SMALL,
            "title": {"text": names[index], "font": {"size": 12.5}, "standoff": 8},
        }
        figure.layout[in_layout(axis("y", index))] = {
            **AXIS,
            "domain": y_domain,
            "anchor": axis("x", index),
            "range": [-0.5, n_layers - 0.5],
            "matches": "y" if index else None,
            "showticklabels": index == 0,
            "tickvals": layer_ticks(range(n_layers)),
            "tickfont": SMALL,
            "title": {"text": "" if index else "layer", "font": {"size": 12.5}, "standoff": 10},
        }
    grouped = f" (of every {size} the strongest)" if size > 1 else ""
    headings = (f"<b>All neurons</b>{small(grouped)}", "<b>The highest of each layer</b>", "<b>Above the threshold</b>")
    for x, heading in zip(starts, headings, strict=True):
        figure.add_annotation(canvas.heading(float(x), y, heading))
    return figure


# --- the parts of plot_neurons -------------------------------------------------------------------------------------
def pooled(scores: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The score of largest magnitude among every `size` neighbours, [layers, columns], and the neuron that has it."""
    n_layers, n_neurons = scores.shape
    columns = -(-n_neurons // size)
    padded = np.full((n_layers, columns * size), np.nan)
    padded[:, :n_neurons] = scores
    groups = padded.reshape(n_layers, columns, size)
    best = np.where(np.isnan(groups), -1.0, np.abs(groups)).argmax(-1)
    strongest = np.take_along_axis(groups, best[..., None], -1)[..., 0]
    return strongest, best + size * np.arange(columns)


def _overview(each: NeuronAttribution, size: int) -> Any:
    import plotly.graph_objects as go

    strongest, neuron = pooled(np.asarray(each.scores), size)
    return go.Heatmap(
        z=strongest.astype(np.float32),  # half the size on disk, more digits than a hover text shows
        x0=(size - 1) / 2,
        dx=size,
        y0=0,
        dy=1,
        customdata=neuron.astype(np.int32),
        hovertemplate=f"<b>layer %{{y}}, neuron %{{customdata}}</b><br>score %{{z:.4g}}{_largest(size)}<extra></extra>",
        hoverongaps=False,
        coloraxis="coloraxis",
    )


def _largest(size: int) -> str:
    return f", the largest of {size} neighbours" if size > 1 else ""


def _rings(each: NeuronAttribution, top: Sequence[tuple[int, int]]) -> Any:
    import plotly.graph_objects as go

    data = [
        [neuron, float(each.scores[layer, neuron]), float(each.activations[layer, neuron]), rank]
        for rank, (layer, neuron) in enumerate(top, start=1)
    ]
    return go.Scatter(
        x=[neuron for _, neuron in top],
        y=[layer for layer, _ in top],
        customdata=data,
        mode="markers",
        marker={"symbol": "circle-open", "size": 10, "color": INK, "line": {"width": 1.3}},
        hovertemplate="<b>layer %{y}, neuron %{customdata[0]}</b><br>score %{customdata[1]:.4g}, rank %{customdata[3]}"
        "<br>activation %{customdata[2]:.4g}<extra></extra>",
    )


def _ranked(each: NeuronAttribution, ranks: int, size: int) -> Any:
    import plotly.graph_objects as go

    order = np.argsort(-each.scores, axis=1, kind="stable")[:, :ranks]
    values = np.take_along_axis(each.scores, order, axis=1)
    activations = np.take_along_axis(each.activations, order, axis=1)
    return go.Heatmap(
        z=values,
        x=list(range(1, ranks + 1)),
        y=list(range(len(order))),
        text=order.astype(str).tolist(),
        texttemplate="%{text}",
        textfont={"size": size},
        customdata=np.stack([order, activations], axis=-1),
        hovertemplate="<b>layer %{y}, neuron %{text}</b><br>score %{z:.4g}, rank %{x} of the layer<br>"
        "activation %{customdata[1]:.4g}<extra></extra>",
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        xaxis="x2",
        yaxis="y2",
    )


def _bars(each: NeuronAttribution, cut: float, counts: np.ndarray, size: int) -> Any:
    import plotly.graph_objects as go

    held = np.zeros(each.n_layers)  # share of the neurons above the threshold in all positive scores
    for layer, neuron in each.above(cut):
        held[layer] += each.scores[layer, neuron]
    positive = float(each.scores[each.scores > 0].sum()) or 1.0
    data = np.stack([counts / max(int(counts.sum()), 1), held / positive], axis=-1)
    return go.Bar(
        x=counts,
        y=list(range(each.n_layers)),
        orientation="h",
        text=[f"{count:,}" if count else "" for count in counts.tolist()],
        textposition="outside",
        textfont={"size": size, "color": QUIET},
        cliponaxis=False,
        customdata=data,
        hovertemplate="<b>layer %{y}</b><br>%{x:,} neurons above the threshold, %{customdata[0]:.1%} of them all<br>"
        "they hold %{customdata[1]:.1%} of the model's positive scores<extra></extra>",
        marker={"color": BAR_COLOR, "line": {"width": 0}},
        xaxis="x3",
        yaxis="y3",
    )


def _colors(each: NeuronAttribution) -> dict[str, Any]:
    low, high = float(np.nanmin(each.scores)), float(np.nanmax(each.scores))
    if low < -NEGATIVE * max(high, 0.0):
        end = max(-low, high)
        return {"colorscale": "PRGn", "cmin": -end, "cmax": end}
    return {"colorscale": "Greens", "cmin": 0.0, "cmax": high if high > 0 else 1.0}


# --- texts ---------------------------------------------------------------------------------------------------------
def _facts_of(each: NeuronAttribution, cut: float, count: int, ringed: int) -> list[str]:
    where = [f"“{token_label(each.tokens[p])}” ({p})" for p in each.positions[:4]]
    more = len(each.positions) - len(where)
    places = ", ".join(where) + (f" and {more} more" if more > 0 else "")
    return [
        f"p({token_label(each.answer)}) = {each.full:.3f} in {model_label(each.model)}",
        how(each),
        f"at {places}" if places else "",
        f"{count:,} {'neuron' if count == 1 else 'neurons'} {above(each, cut)}",
        f"○ the {ringed:,} highest" if ringed else "",
        escape(each.note),
    ]


def _unit(each: NeuronAttribution) -> str:
    return "standard deviations" if each.method == "activation_contrast" else "score"
