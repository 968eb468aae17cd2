"""Texts and layout of a figure of averages, and the looks of its classes of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tracer.tracing.metrics import trace_metric

from .fit import axis_title, in_line, panel_widths
from .labels import escape, model_label, remark, x_title
from .style import BAR_ROOM, EDGE, LINE, TITLES, Canvas, legend_height, small, text_width, wrapped

if TYPE_CHECKING:
    from tracer.tracing.average_trace import AverageTrace


@dataclass(frozen=True)
class Line:
    """The look of a class of tokens.

    Attributes:
        color: its colour.
        width: of the line, in pixels.
        dash: the line's dash.
        symbol: the marks on it.
    """

    color: str
    width: float
    dash: str
    symbol: str


# The two classes the method is about are dark and thick; the others differ in lightness and dash as well as in hue.
LINES = {
    "first subject token": Line("#e0a11b", 1.7, "solid", "circle"),
    "middle subject tokens": Line("#c27bb0", 1.7, "dash", "square"),
    "last subject token": Line("#c33d1e", 3.2, "solid", "circle"),
    "first subsequent token": Line("#4ba3d8", 1.7, "solid", "diamond"),
    "further tokens": Line("#8f8f99", 1.7, "dot", "square"),
    "last token": Line("#173f74", 3.2, "solid", "circle"),
}
OTHER = Line("#5f7f4f", 1.7, "dashdot", "diamond")
STRONG = 3.0  # lines of this width and more are drawn last, above the others

CURVES, BETWEEN, ROW, BOTTOM, RIGHT = 230, 26, 26, 60, 8
NARROWEST = 680  # for the title


@dataclass(frozen=True)
class Plan:
    """Texts, and their places, in pixels from the top left corner."""

    title: str
    subtitle: str
    headings: tuple[str, ...]
    entries: tuple[str, ...]
    left: int
    legend_top: int
    top: int
    panel: int
    heat: int
    step: tuple[int, int]
    columns: int
    rows: int
    bottom: int
    width: int

    @classmethod
    def of(cls, averages: Sequence[AverageTrace], width: int) -> Plan:
        """The plan for `width` pixels, or for as many as one column of panels needs."""
        n_layers = max(max(a.layers) - min(a.layers) + 1 for a in averages)
        heat = ROW * max(len(a.classes) for a in averages)
        left = 30 + int(max(text_width(escape(name)) for a in averages for name in a.classes))
        # every panel beyond the first of its line repeats the numbers of its axis where its metric is another one
        room = 22 if len({a.metric for a in averages}) == 1 else 60

        def beside(columns: int) -> int:
            return left + columns * BAR_ROOM + (columns - 1) * room + RIGHT

        columns, panel = in_line(width, len(averages), panel_widths(n_layers, 230, 300, 380), beside)
        total = max(beside(columns) + columns * panel, NARROWEST)
        across = panel + BAR_ROOM + room
        alone = len({_sample(a) for a in averages}) == 1
        subtitle, lines = wrapped(_totals(averages, alone), total - 2 * EDGE)
        headings = tuple(_heading(a, alone, across - 10) for a in averages)
        heading = 24 + LINE * (max(text.count("<br>") for text in headings))
        entries = tuple(c for c in _classes(averages) if any(shown(a, c) for a in averages))
        legend_top = 76 + LINE * (lines - 1)
        top = legend_top + (legend_height(entries, total) if entries else 0) + 14 + heading
        bottom = BOTTOM + LINE * (max(axis_title(x_title(a), panel)[1] for a in averages) - 1)
        return cls(
            title=_title(averages, alone),
            subtitle=subtitle,
            headings=headings,
            entries=entries,
            left=left,
            legend_top=legend_top,
            top=top,
            panel=panel,
            heat=heat,
            step=(across, CURVES + BETWEEN + heat + bottom + heading),
            columns=columns,
            rows=-(-len(averages) // columns),
            bottom=bottom,
            width=total,
        )

    @property
    def canvas(self) -> Canvas:
        """The figure's canvas."""
        last = CURVES + BETWEEN + self.heat + self.bottom
        return Canvas(self.width, self.top + (self.rows - 1) * self.step[1] + last)

    def place(self, index: int) -> tuple[int, int]:
        """The upper left corner of a column of panels."""
        return self.left + index % self.columns * self.step[0], self.top + index // self.columns * self.step[1]


# --- texts ---------------------------------------------------------------------------------------------------------
def _sample(average: AverageTrace) -> tuple[Any, ...]:
    """Properties that the columns of one figure usually share; where they differ, each column shows its own."""
    return average.facts, average.subjects, average.unknown, average.model, average.metric


def _title(averages: Sequence[AverageTrace], alone: bool) -> str:
    if not alone:
        return "Average indirect effects of restoring clean states"
    return f"Average indirect effect over {counted(averages[0])}"


def _heading(average: AverageTrace, alone: bool, width: int) -> str:
    parts: list[list[str]] = []
    if not alone:
        parts = [
            [model_label(average.model), _metric(average)],
            [counted(average)],
            [f"total effect {_total(average)}"],
        ]
    lines = [wrapped(each, width, 12)[0] for each in (*parts, remark(average).split(" · "))]
    title = f"<b>{TITLES.get(average.kind, escape(average.kind))}</b>"
    return "<br>".join([title, *(small(line) for text in lines if text for line in text.split("<br>"))])


def _totals(averages: Sequence[AverageTrace], alone: bool) -> list[str]:
    first = averages[0]
    band = f"bands: {percent(first.confidence)} intervals"
    if not alone:
        return [band]
    skipped = len(first.unknown)
    known = f"{skipped:,} {'prompt' if skipped == 1 else 'prompts'} skipped as unknown" if skipped else ""
    return [f"{_metric(first)}: average total effect {_total(first)}", known, band]


def _total(average: AverageTrace) -> str:
    return f"{average.total_effect:.3f} [{average.total_low:.3f}, {average.total_high:.3f}]"


def counted(average: AverageTrace) -> str:
    """Numbers of facts and subjects, as in "97 facts about 80 subjects"."""
    facts = f"{average.facts:,} {'fact' if average.facts == 1 else 'facts'}"
    return f"{facts} about {average.subjects:,} {'subject' if average.subjects == 1 else 'subjects'}"


def _metric(average: AverageTrace) -> str:
    return escape(trace_metric(average.metric).label)


def percent(confidence: float) -> str:
    """A share in per cent."""
    return f"{100 * confidence:g} %"


def row_label(name: str) -> str:
    """The label of a class, bold for the two classes the method is about."""
    return f"<b>{escape(name)}</b>" if line_of(name).width >= STRONG else escape(name)


# --- classes and ranges --------------------------------------------------------------------------------------------
def line_of(name: str) -> Line:
    """The look of a class."""
    return LINES.get(name, OTHER)


def rank(name: str) -> int:
    """The place of a class in the legend, from 1."""
    return list(LINES).index(name) + 1 if name in LINES else len(LINES) + 1


def _classes(averages: Sequence[AverageTrace]) -> list[str]:
    return list(dict.fromkeys(name for a in averages for name in a.classes))


def shown(average: AverageTrace, name: str) -> bool:
    """Whether a class of an average has tokens."""
    if name not in average.classes:
        return False
    return bool(np.isfinite(np.asarray(average.effect, float)[average.classes.index(name)]).any())
