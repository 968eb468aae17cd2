"""The layers of many facts' knowledge neurons; and functions that figures of neurons share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import NothingToDraw

from .labels import escape, model_label
from .style import AXIS, EDGE, LINE, SMALL, VALUES, Canvas, layer_ticks, wrapped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracer.neurons.attribution import NeuronAttribution

BAR_COLOR = "#4aa564"
SHARE, DEVIATIONS = 0.2, 3.0  # default thresholds
MEANS = {"integrated_gradients": "integrated gradients", "activation_contrast": "activation contrast"}
SITES = {"post": "neurons after the non-linearity", "pre": "neurons before the non-linearity"}
LEFT, HEIGHT, BOTTOM, RIGHT = 70, 250, 60, 24


def plot_layers(attributions: Sequence[NeuronAttribution], threshold: float | None = None) -> go.Figure:
    """Numbers of neurons above the threshold per layer, over many facts (Dai et al. 2022, figure 3).

    Bars are means per fact, whiskers one standard deviation between facts (cut at zero).

    Args:
        attributions: one per fact.
        threshold: as for [`tracer.plot_neurons`][], of each fact's own highest score.

    Raises:
        TracerError: an empty sequence, or attributions of different models, methods or sites.
    """
    import plotly.graph_objects as go

    several = checked("plot_layers", attributions)
    first = several[0]
    cut = threshold_of(first, threshold)
    counts = np.stack([np.asarray(each.per_layer(cut)) for each in several])  # [facts, layers]
    mean, spread = counts.mean(0), counts.std(0, ddof=1) if len(several) > 1 else np.zeros(counts.shape[1])
    share = mean / (mean.sum() or 1)
    width = LEFT + min(max(26 * first.n_layers, 600), 1080) + RIGHT
    sums = counts.sum(1)
    number = f"{len(several):,} {'fact' if len(several) == 1 else 'facts'}"
    per_fact = f"{sums.mean():.1f} neurons per fact ({sums.min():,} to {sums.max():,}) {above(first, cut)}"
    whiskers = "whiskers: one standard deviation between facts" if len(several) > 1 else ""
    subtitle, lines = wrapped([per_fact, how(first), whiskers], width - 2 * EDGE)
    canvas = Canvas(width, 96 + LINE * (lines - 1) + HEIGHT + BOTTOM)
    x_domain, y_domain = canvas.domain(LEFT, canvas.height - BOTTOM - HEIGHT, width - LEFT - RIGHT, HEIGHT)
    figure = go.Figure(
        go.Bar(
            x=list(range(first.n_layers)),
            y=mean,
            error_y={
                "array": spread,
                "arrayminus": np.minimum(spread, mean),
                "visible": len(several) > 1,
                "color": "#4a4a55",
                "thickness": 1,
                "width": 2,
            },
            customdata=np.stack([share, spread, counts.min(0), counts.max(0)], axis=-1),
            hovertemplate="<b>layer %{x}</b><br>%{y:.2f} neurons per fact, %{customdata[0]:.1%} of all<br>"
            "standard deviation %{customdata[1]:.2f}, %{customdata[2]:,d} to %{customdata[3]:,d}<extra></extra>",
            marker={"color": BAR_COLOR, "line": {"width": 0}},
        )
    )
    title = f"Layers of the knowledge neurons of {number}"
    figure.update_layout(canvas.layout(title, subtitle, bargap=0.25))
    x_title = {"text": f"layer of {model_label(first.model)}", "font": {"size": 12.5}, "standoff": 8}
    ticks = layer_ticks(range(first.n_layers), room=26)
    figure.layout["xaxis"] = AXIS | {"domain": x_domain, "tickvals": ticks, "tickfont": SMALL, "title": x_title}
    figure.layout["xaxis"]["range"] = [-0.6, first.n_layers - 0.4]
    y_title = {"text": "neurons per fact", "font": {"size": 12.5}}
    figure.layout["yaxis"] = VALUES | {"domain": y_domain, "tickfont": SMALL, "rangemode": "tozero", "title": y_title}
    return figure


def how(each: NeuronAttribution) -> str:
    """The method of the scores, in words."""
    steps = f", {each.steps} steps" if each.steps else ""
    method = MEANS.get(each.method, escape(each.method))
    return f"{method}{steps}, {SITES.get(each.site, escape(each.site))}"


def above(each: NeuronAttribution, cut: float) -> str:
    """The threshold in words."""
    if each.method == "activation_contrast":
        return f"above {cut:g} standard deviations"
    return f"above {100 * cut:g} % of the highest score"


def threshold_of(each: NeuronAttribution, threshold: float | None) -> float:
    """The threshold given, or the one that goes with the method."""
    if threshold is not None:
        return threshold
    return DEVIATIONS if each.method == "activation_contrast" else SHARE


def checked(name: str, attributions: Any) -> list[NeuronAttribution]:
    """The attributions as a list, of one model, method and site.

    Raises:
        TracerError: other attributions; `name` is the caller's in the message.
    """
    listed = list(attributions) if isinstance(attributions, Sequence) else [attributions]
    if not listed or isinstance(attributions, str):
        raise NothingToDraw(f"{name} got {attributions!r}; pass a NeuronAttribution or a list of them")
    for each in listed:
        if not hasattr(each, "per_layer") or not hasattr(each, "activations"):
            raise NothingToDraw(f"{name} expected a NeuronAttribution, got {type(each).__name__}")
        for field in ("model", "fingerprint", "method", "site"):
            one, other = getattr(listed[0], field), getattr(each, field)
            if one != other:
                raise NothingToDraw(f"{name} expected attributions of one {field}, got {one!r} and {other!r}")
        if np.shape(each.scores) != np.shape(listed[0].scores):
            shapes = f"{np.shape(listed[0].scores)} and {np.shape(each.scores)}"
            raise NothingToDraw(f"{name} expected attributions with scores of one shape, got {shapes}")
    return listed
