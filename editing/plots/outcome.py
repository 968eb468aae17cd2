"""Edit outcomes: probabilities of answers before and after, a panel for each group of prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from editing.questions.answers import Answers
from editing.questions.outcome import Outcome
from editing.questions.question import GROUPS
from tracer.errors import NothingToDraw
from tracer.plots.labels import escape, headline, model_label
from tracer.plots.style import (
    EDGE,
    INK,
    LINE,
    SMALL,
    VALUES,
    Canvas,
    axis,
    in_layout,
    legend_height,
    see_through,
    small,
    wrapped,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go

TARGETS = {"new": ("the new target", "#c4552d"), "true": ("the answer before the edit", "#3b6ea5")}
LEFT, PANEL, HEIGHT, HEADING, BETWEEN, BOTTOM, RIGHT = 70, 210, 300, 42, 34, 44, 30
SIDE = 0.32  # room beside the two moments, for the means' numbers


def plot_outcome(outcome: Outcome) -> go.Figure:
    """Probabilities of both targets before and after an edit: a thin line per prompt, a thick one for their mean.

    Panels are the groups that were asked: the rewrite, paraphrases, neighbours, other facts of the subject. Of the last
    two the "answer before the edit" is their own.

    Args:
        outcome: to plot.

    Raises:
        TracerError: anything but an outcome, and one without questions.
    """
    import plotly.graph_objects as go

    if not isinstance(outcome, Outcome):
        raise NothingToDraw(f"plot_outcome expected an Outcome, got {type(outcome).__name__}")
    groups = outcome.groups()
    if not groups:
        raise NothingToDraw("nothing was asked, so that there is nothing to draw; measure with questions")
    width = max(LEFT + len(groups) * PANEL + (len(groups) - 1) * BETWEEN + RIGHT, 640)
    panel = (width - LEFT - RIGHT - (len(groups) - 1) * BETWEEN) // len(groups)
    subtitle, lines = wrapped(_notes(outcome), width - 2 * EDGE)
    entries = [name for name, _ in TARGETS.values()]
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height(entries, width) + 14 + HEADING
    canvas = Canvas(width, top + HEIGHT + BOTTOM)
    figure = go.Figure()
    for index, (name, places) in enumerate(groups.items()):
        _add_panel(figure, outcome, places, index)
        left = LEFT + index * (panel + BETWEEN)
        x_domain, y_domain = canvas.domain(left, top, panel, HEIGHT)
        figure.layout[in_layout(axis("x", index))] = {
            **VALUES,
            "showgrid": False,
            "zeroline": False,
            "domain": x_domain,
            "anchor": axis("y", index),
            "range": [-SIDE, 1 + SIDE],
            "tickvals": [0, 1],
            "ticktext": ["before", "after"],
            "tickfont": {"size": 13},
        }
        figure.layout[in_layout(axis("y", index))] = {
            **VALUES,
            "zeroline": False,
            "domain": y_domain,
            "anchor": axis("x", index),
            "range": [-0.04, 1.04],
            "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "showticklabels": index == 0,
            "tickfont": SMALL,
            "title": {"text": "probability" if index == 0 else "", "font": {"size": 12.5}},
        }
        figure.add_annotation(canvas.heading(left, top, _heading(outcome, name, places)))
    legend = {"showlegend": True, "legend": canvas.legend(entries, legend_top)}
    figure.update_layout(canvas.layout(_title(outcome, width), subtitle, hovermode="closest", **legend))
    return figure


def _add_panel(figure: go.Figure, outcome: Outcome, places: list[int], index: int) -> None:
    """The lines of one group. Prompts with an unknown target have no line."""
    import plotly.graph_objects as go

    axes = {"xaxis": axis("x", index), "yaxis": axis("y", index)}
    means = {}
    for kind, (name, color) in TARGETS.items():
        ends = np.stack([getattr(one, kind)[places] for one in (outcome.before, outcome.after)], axis=1)
        known = np.flatnonzero(np.isfinite(ends).all(1))
        opacity = max(0.08, min(0.45, 6 / max(1, len(known))))
        hover = [[_hover(one, places[i], kind) for one in (outcome.before, outcome.after)] for i in known]
        figure.add_trace(
            go.Scatter(
                x=[x for _ in known for x in (0, 1, None)],
                y=[y for i in known for y in (*ends[i].tolist(), None)],
                customdata=[text for pair in hover for text in (*pair, "")],
                hovertemplate="%{customdata}<extra></extra>",
                mode="lines+markers",
                line={"color": see_through(color, opacity), "width": 1.2},
                marker={"color": see_through(color, opacity), "size": 5},
                legendgroup=kind,
                showlegend=False,
                **axes,
            )
        )
        if not len(known):
            continue
        means[kind] = ends[known].mean(0)
        drawn: Any = figure.data
        figure.add_trace(
            go.Scatter(
                x=[0, 1],
                y=means[kind],
                mode="lines+markers",
                line={"color": color, "width": 3},
                marker={"color": color, "size": 9, "line": {"color": "white", "width": 1}},
                hovertemplate=f"<b>{name}</b><br>%{{x}}: mean %{{y:.4f}} over {len(known)} prompts<extra></extra>"
                if len(known) > 1
                else f"<b>{name}</b><br>%{{y:.4f}}<extra></extra>",
                name=name,
                legendgroup=kind,
                showlegend=not any(trace.showlegend and trace.legendgroup == kind for trace in drawn),
                **axes,
            )
        )
    for moment in (0, 1):
        _add_numbers(figure, {kind: float(ends[moment]) for kind, ends in means.items()}, moment, axes)


def _add_numbers(figure: go.Figure, values: dict[str, float], moment: int, axes: dict[str, Any]) -> None:
    """The means beside their marks, moved apart where they would cover each other."""
    least = 17 / HEIGHT * 1.08  # a line of text, in units of the axis
    order = sorted(values, key=lambda kind: values[kind])
    at = [values[kind] for kind in order]
    if len(at) == 2 and at[1] - at[0] < least:
        middle = min(max(sum(at) / 2, least / 2), 1 - least / 2)
        at = [middle - least / 2, middle + least / 2]
    for kind, y in zip(order, at, strict=True):
        figure.add_annotation(
            text=f"{values[kind]:.2f}",
            x=moment,
            y=y,
            xref=axes["xaxis"],
            yref=axes["yaxis"],
            xanchor="left" if moment else "right",
            xshift=9 if moment else -9,
            showarrow=False,
            bgcolor="rgba(255,255,255,0.8)",  # lines pass behind the numbers
            borderpad=0,
            font={"size": 12, "color": TARGETS[kind][1]},
        )


# --- texts -----------------------------------------------------------------------------------------------------------
def _title(outcome: Outcome, width: int) -> str:
    if outcome.probes.cases == 1:
        first = outcome.probes.questions[next(iter(outcome.groups().values()))[0]]
        return headline(first.prompt, str(first.new), (width - 2 * EDGE) // 10)
    return f"{outcome.probes.cases:,} edited facts"


def _notes(outcome: Outcome) -> list[str]:
    """The parts of the subtitle."""
    return [
        f"probability of whole answers on {model_label(outcome.model)}, before and after the edit",
        "thin lines: single prompts" if len(outcome.probes.questions) > len(outcome.groups()) else "",
    ]


def _heading(outcome: Outcome, name: str, places: list[int]) -> str:
    count = "" if name == "rewrite" and len(places) == 1 else f"{len(places):,} "
    label = (
        GROUPS[name] if len(places) > 1 else name.replace("_", " ").replace("same subject", "other fact of the subject")
    )
    label = f"{label}s" if name == "rewrite" and len(places) > 1 else label
    before, after = (_share(one, places) for one in (outcome.before, outcome.after))
    return f"<b>{count}{label}</b><br>{small(f'as meant: {before} → {after}')}"


def _share(one: Answers, places: list[int]) -> str:
    judged = one.as_meant[places]
    judged = judged[np.isfinite(judged)]
    return f"{int(judged.sum())} of {len(judged)}" if len(judged) else "not known"


def _hover(one: Answers, place: int, kind: str) -> str:
    question = one.probes.questions[place]
    target = str(question.new) if kind == "new" else str(question.true)
    head = f'<span style="color:{INK}">{headline(question.prompt, target, 70)}</span>'
    return f"{head}<br>p = {getattr(one, kind)[place]:.4f}<br>the model says: {escape(one.answers[place])}"
