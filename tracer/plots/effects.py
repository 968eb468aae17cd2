"""Effects of acting on a fact's neurons, with every control beside them, as bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.errors import NothingToDraw

from .effect_bars import Bar, bars_of_one, bars_of_several, cap_of, label_at, percentage, value_range
from .labels import escape, headline, model_label, token_label
from .style import EDGE, INK, LINE, SMALL, VALUES, Canvas, axis, in_layout, legend_height, see_through, small, wrapped

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tracer.neurons.effects import NeuronEffects

BARS = {
    "neurons": ("knowledge neurons", "#3d9a5a"),
    "random": ("random neurons, same layers", "#b4b4bf"),
    "other": ("another fact's neurons", "#8492b8"),
}
ROLES = {"fact": ("the fact itself", "the facts"), "neighbour": ("neighbours", "neighbours")}
PLACES = {"answer": "where the answer is read", "subject_last": "at the subject's last token", "all": "at every token"}
LEFT, BAR, BAR_MOST, HEIGHT, BOTTOM, RIGHT, BETWEEN = 84, 66, 86, 270, 46, 26, 84
COLUMNS = 3


def plot_effects(effects: NeuronEffects | Sequence[NeuronEffects]) -> go.Figure:
    """Relative change of the correct answer's probability: a fact's neurons, beside random ones and another fact's.

    Effects of the same intervention are one panel, so that suppressing and amplifying are side by side. A panel of one
    result has the single draws of random neurons and the single neighbours as dots; one of several results has means
    over facts with the intervals of [`tracer.summarise_effects`][].

    A change too large for the others to be seen is cut off at the upper edge; every bar has its number written on it.

    Raises:
        TracerError: an empty sequence, or anything but effects.
    """
    import plotly.graph_objects as go

    listed = _as_list(effects)
    groups: dict[Any, list[NeuronEffects]] = {}
    for each in listed:
        groups.setdefault((_action(each), each.tokens, each.site, each.model, each.fingerprint), []).append(each)
    panels = [bars_of_one(group[0]) if len(group) == 1 else bars_of_several(group) for group in groups.values()]
    roles = [r for r in ROLES if any(bar.role == r for bars in panels for bar in bars)]
    conditions = [c for c in BARS if any(bar.condition == c for bars in panels for bar in bars)]
    single = all(len(group) == 1 for group in groups.values())
    alone = single and len({(each.facts[0], each.answers[0], each.model) for each in listed}) == 1
    columns = min(len(panels), COLUMNS)
    panel = max(BAR * len(roles) * len(conditions) + 40 * len(roles), 240)
    width = max(LEFT + columns * panel + (columns - 1) * BETWEEN + RIGHT, 780)
    panel = (width - LEFT - RIGHT - (columns - 1) * BETWEEN) // columns  # fills a figure that its texts made wider
    names = [BARS[c][0] for c in conditions]
    subtitle, lines = wrapped(_notes(listed, groups.values(), alone), width - 2 * EDGE)
    headings = [_heading(group, alone, panel) for group in groups.values()]
    heading = 24 + LINE * max(text.count("<br>") for text in headings)
    legend_top = 58 + LINE * lines
    top = legend_top + legend_height(names, width) + 14 + heading
    step = HEIGHT + BOTTOM + heading + 10
    canvas = Canvas(width, top + (-(-len(panels) // COLUMNS) - 1) * step + HEIGHT + BOTTOM)
    figure = go.Figure()
    for index, (bars, group) in enumerate(zip(panels, groups.values(), strict=True)):
        x, y = LEFT + index % COLUMNS * (panel + BETWEEN), top + index // COLUMNS * step
        wide = min(0.84 / len(conditions), BAR_MOST * len(roles) / panel)
        _add_panel(figure, index, bars, roles, conditions, wide)
        x_domain, y_domain = canvas.domain(x, y, panel, HEIGHT)
        figure.layout[in_layout(axis("x", index))] = {
            **VALUES,
            "showgrid": False,
            "zeroline": False,
            "domain": x_domain,
            "anchor": axis("y", index),
            "range": [-0.5, len(roles) - 0.5],
            "tickvals": list(range(len(roles))),
            "ticktext": [_role(role, group) for role in roles],
            "tickfont": {"size": 13},
        }
        figure.layout[in_layout(axis("y", index))] = {
            **VALUES,
            "domain": y_domain,
            "anchor": axis("x", index),
            "range": (ends := value_range(bars)),
            "tickformat": ",.0%" if ends[1] - ends[0] > 0.08 else ",.1%" if ends[1] - ends[0] > 0.008 else ",.2%",
            "nticks": 8,
            "tickfont": SMALL,
            "title": {
                "text": "" if index % COLUMNS else "relative change of the answer's probability",
                "font": {"size": 12.5},
            },
        }
        figure.add_annotation(canvas.heading(x, y, headings[index]))
    legend = {"showlegend": True, "legend": canvas.legend(names, legend_top)}
    title = "What acting on knowledge neurons does to the correct answer"
    if alone:
        title = headline(listed[0].facts[0], listed[0].answers[0], (width - 2 * EDGE) // 10)
    figure.update_layout(canvas.layout(title, subtitle, hovermode="closest", **legend))
    return figure


def _add_panel(
    figure: go.Figure, index: int, bars: list[Bar], roles: list[str], conditions: list[str], wide: float
) -> None:
    import plotly.graph_objects as go

    cap = cap_of(bars)
    axes = {"xaxis": axis("x", index), "yaxis": axis("y", index)}

    def place(bar: Bar) -> float:
        return roles.index(bar.role) + (conditions.index(bar.condition) - (len(conditions) - 1) / 2) * wide

    for condition in conditions:
        name, color = BARS[condition]
        mine = [bar for bar in bars if bar.condition == condition]
        shown = np.minimum([bar.value for bar in mine], cap)
        high = np.minimum([bar.high for bar in mine], cap) - shown
        low = shown - np.array([bar.low for bar in mine])
        figure.add_trace(
            go.Bar(
                x=[place(bar) for bar in mine],
                y=shown,
                width=0.94 * wide,
                error_y={
                    "array": np.maximum(np.nan_to_num(high), 0),
                    "arrayminus": np.maximum(np.nan_to_num(low), 0),
                    "visible": bool(np.isfinite(low).any()),
                    "color": "#4a4a55",
                    "thickness": 1,
                    "width": 3,
                },
                customdata=[[percentage(bar.value), bar.note] for bar in mine],
                hovertemplate=f"<b>{name}</b><br>%{{customdata[0]}}%{{customdata[1]}}<extra></extra>",
                marker={"color": color, "line": {"width": 0}},
                name=name,
                legendgroup=condition,
                showlegend=index == 0,
                **axes,
            )
        )
        dots = [
            (place(bar) + spread, value, text)
            for bar in mine
            for spread, value, text in zip(_spread(len(bar.dots), wide), bar.dots, bar.dot_texts, strict=True)
            if np.isfinite(value)
        ]
        if dots:
            figure.add_trace(
                go.Scatter(
                    x=[x for x, _, _ in dots],
                    y=[min(value, cap) for _, value, _ in dots],
                    customdata=[[percentage(value), text] for _, value, text in dots],
                    hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<extra></extra>",
                    mode="markers",
                    marker={
                        "size": 5.5,
                        "symbol": ["triangle-up" if value > cap else "circle" for _, value, _ in dots],
                        "color": see_through(INK, 0.55),
                        "line": {"width": 0},
                    },
                    legendgroup=condition,
                    showlegend=False,
                    **axes,
                )
            )
    for bar in bars:
        falls = bar.value < 0
        figure.add_annotation(
            text=f"▲ {percentage(bar.value)}" if bar.value > cap else percentage(bar.value),
            x=place(bar),
            y=label_at(bar, cap),
            xref=axes["xaxis"],
            yref=axes["yaxis"],
            # beyond the mark by some pixels, whatever the scale
            yshift=-4 if falls else 4,
            yanchor="top" if falls else "bottom",
            showarrow=False,
            font={"size": 12},
        )


def _spread(count: int, wide: float) -> np.ndarray:
    """Places of dots across a bar of that width: side by side, in their order."""
    return np.linspace(-0.36, 0.36, count) * wide if count > 1 else np.zeros(count)


# --- texts ---------------------------------------------------------------------------------------------------------
def _action(effect: NeuronEffects) -> str:
    if effect.action == "suppress":
        return "Suppressed"
    if effect.action == "amplify":
        return f"Amplified × {effect.factor:g}"
    return f"Set to {effect.value:g}" if effect.action == "set_to" else escape(effect.action)


def _role(role: str, group: Sequence[NeuronEffects]) -> str:
    """The label below a group of bars."""
    one, several = ROLES[role]
    count = sum(len(each.facts) - 1 for each in group) if role == "neighbour" else len(group)
    if role == "fact" and len(group) == 1:
        return one
    return f"{count:,} {one[:-1] if count == 1 else several}" if role == "neighbour" else f"{count:,} facts"


def _heading(group: Sequence[NeuronEffects], alone: bool, panel: int) -> str:
    first = group[0]
    lines = [f"<b>{_action(first)}</b>"]
    if len(group) == 1:
        before, after = float(first.before[0]), float(first.after[0])
        if not alone:
            lines.append(small(headline(first.facts[0], first.answers[0], panel // 7)))
        lines.append(small(f"p({token_label(first.answers[0])}) from {before:.3f} to {after:.3f}"))
    return "<br>".join(lines)


def _notes(listed: Sequence[NeuronEffects], groups: Iterable[Sequence[NeuronEffects]], alone: bool) -> list[str]:
    """The parts of the subtitle."""
    counts = sorted({len(each.neurons) for each in listed})
    neurons = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    models = " and ".join(dict.fromkeys(model_label(each.model) for each in listed))
    places = {PLACES.get(each.tokens, "") if isinstance(each.tokens, str) else "" for each in listed}
    sizes = [len(group) for group in groups]
    neighbours = " and neighbours" if any(len(each.facts) > 1 for each in listed) else ""
    return [
        f"{neurons} {'neuron' if counts == [1] else 'neurons'} of {models}",
        places.pop() if len(places) == 1 else "",
        f"dots: single draws{neighbours}" if 1 in sizes else "",
        "bars: means over prompts, whiskers: 95 % intervals over subjects" if max(sizes) > 1 else "",
        *(dict.fromkeys(escape(each.note) for each in listed) if alone else ()),
    ]


def _as_list(effects: Any) -> list[NeuronEffects]:
    listed: list[Any] = list(effects) if isinstance(effects, Sequence) else [effects]
    if not listed:
        raise NothingToDraw("plot_effects got an empty list; pass one NeuronEffects or a list of them")
    for each in listed:
        if not hasattr(each, "random_change") or not hasattr(each, "neurons"):
            raise NothingToDraw(f"plot_effects expected a NeuronEffects or a list of them, got {type(each).__name__}")
    return listed
