"""Attacks on old answers in figures: success of each layer alone, and success against the budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from editing.attack import AttackResult
from editing.evaluation.result.schema import UNEDITED
from tracer.errors import NothingToDraw, UnsuitableResult
from tracer.plots.labels import cut, escape
from tracer.plots.style import EDGE, LINE, QUIET, SMALL, VALUES, Canvas, axis, in_layout, legend_height, wrapped
from tracer.statistics import clustered_mean

from .series import COLORS, DASHES

if TYPE_CHECKING:
    import plotly.graph_objects as go

WIDTH, PANEL, HEADING, BOTTOM, LEFT, RIGHT, BETWEEN = 900, 300, 30, 62, 74, 30, 66
LIMIT = 32


def plot_attack(
    results: AttackResult | Mapping[str, AttackResult], attack: str = "head projection", budget: int | None = None
) -> go.Figure:
    """Share of old answers that are found: by each layer alone, and by an attack with every budget.

    A line per result; one that is named "unedited" is grey. Intervals, over subjects, are told at each point.

    Args:
        results: one, or several by name.
        attack: drawn against the budget.
        budget: guesses of each layer on the left, and the most on the right; None: the smallest of the results' own.

    Raises:
        TracerError: anything else, no result, an attack that was not made, a larger budget than a result has.
    """
    import plotly.graph_objects as go

    named = results if isinstance(results, Mapping) else {getattr(results, "model", ""): results}
    if not named:
        raise NothingToDraw("there is no result to draw; give at least one of editing.attack.attack")
    for each in named.values():
        if not isinstance(each, AttackResult):
            raise UnsuitableResult(
                f"plot_attack draws what editing.attack.attack gave, not {type(each).__name__}; make the attack first"
            )
    allowed = min(each.budget for each in named.values()) if budget is None else budget
    titles = (f"<b>each layer alone, {allowed} guesses</b>", f"<b>{escape(attack)}</b>")
    names = [escape(cut(name, LIMIT)) for name in named]
    models = ", ".join(dict.fromkeys(escape(each.model) for each in named.values()))
    counts = sorted({len(each.answers) for each in named.values()})
    subtitle, lines = wrapped([f"old answers in {models}", f"facts: {' to '.join(map(str, counts))}"], WIDTH - 2 * EDGE)
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height(names, WIDTH) + HEADING
    canvas = Canvas(WIDTH, top + PANEL + BOTTOM)
    figure = go.Figure()
    for place, (name, each) in enumerate(named.items()):
        grey = name == UNEDITED
        look = {
            "color": QUIET if grey else COLORS[place % len(COLORS)],
            "dash": "dash" if grey else DASHES[place // len(COLORS) % 3],
            "width": 1.6 if grey else 2.2,
        }
        layers = each.by_layer(allowed)
        budgets = np.stack([each.success(attack, guesses) for guesses in range(1, allowed + 1)], 1)
        for panel, (values, first) in enumerate(((layers, 0), (budgets, 1))):
            figure.add_trace(_line(values, each.subjects, first, names[place], look, panel))
    _add_axes(figure, canvas, top, titles)
    figure.update_layout(
        canvas.layout(
            "Old answers that guesses bring back",
            subtitle,
            hovermode="closest",
            showlegend=True,
            legend=canvas.legend(names, legend_top),
        )
    )
    return figure


def _line(
    values: np.ndarray, subjects: tuple[str, ...], first: int, name: str, look: dict[str, object], panel: int
) -> go.Scatter:
    """Means over facts, [facts, points], with their intervals to be read."""
    import plotly.graph_objects as go

    mean, low, high = clustered_mean(values, subjects)
    told = [f"{100 * a:.0f} % [{100 * b:.0f}, {100 * c:.0f}]" for a, b, c in zip(mean, low, high, strict=True)]
    unit = "guesses" if panel else "layer"
    return go.Scatter(
        x=list(range(first, first + len(mean))),
        y=mean.tolist(),
        customdata=told,
        hovertemplate=f"<b>%{{fullData.name}}</b><br>{unit} %{{x}}: %{{customdata}}<extra></extra>",
        mode="lines+markers",
        line=look,
        marker={"color": look["color"], "size": 5},
        name=name,
        legendgroup=name,
        showlegend=not panel,
        xaxis=axis("x", panel),
        yaxis=axis("y", panel),
    )


def _add_axes(figure: go.Figure, canvas: Canvas, top: int, titles: tuple[str, str]) -> None:
    width = (WIDTH - LEFT - RIGHT - BETWEEN) // 2
    for panel, (title, what) in enumerate(zip(titles, ("layer", "guesses"), strict=True)):
        left = LEFT + panel * (width + BETWEEN)
        x_domain, y_domain = canvas.domain(left, top, width, PANEL)
        font = {"font": {"size": 12.5}, "standoff": 6}
        common = {**VALUES, "tickfont": SMALL}
        figure.layout[in_layout(axis("x", panel))] = {
            **common,
            "domain": x_domain,
            "anchor": axis("y", panel),
            "title": {"text": what, **font},
        }
        figure.layout[in_layout(axis("y", panel))] = {
            **common,
            "domain": y_domain,
            "anchor": axis("x", panel),
            "range": [-0.03, 1.03],
            "tickformat": ".0%",
            "title": {"text": "" if panel else "old answers found", **font},
        }
        figure.add_annotation(canvas.heading(left, top, title))
