"""Colours and dashes of the series of an evaluation, the same in every figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from editing.evaluation.result.schema import UNEDITED
from editing.evaluation.result.series import Series
from tracer.plots.labels import cut, escape
from tracer.plots.style import QUIET

COLORS = (
    "#c33d1e",
    "#173f74",
    "#d29412",
    "#2f8f9d",
    "#7a4fa3",
    "#3f9a58",
    "#c2558f",
    "#8a5a2b",
    "#5b7fd0",
    "#7d8a1f",
)
DASHES = ("solid", "dash", "longdashdot")
LIMIT = 44  # characters of a name


@dataclass(frozen=True)
class Look:
    """Colour and line of a series. Controls have their method's colour and dots; the unedited model is grey.

    Attributes:
        color: of the line.
        dash: of the line, by Plotly's name.
        width: of the line, in pixels.
    """

    color: str
    dash: str
    width: float


def looks(series: Sequence[Series], methods: Iterable[str]) -> list[Look]:
    """One look per series.

    The colour is that of the method's place among `methods`, those of the whole evaluation, so that it is the same in
    every figure; several series of a method have different dashes.

    Args:
        series: to be drawn.
        methods: of the whole evaluation.
    """
    named = [name for name in dict.fromkeys(methods) if name != UNEDITED]
    used = dict.fromkeys(named, 0)
    found = []
    for each in series:
        if each.method == UNEDITED:
            found.append(Look(QUIET, "dash", 1.6))
            continue
        color = COLORS[named.index(each.method) % len(COLORS)]
        if each.control:
            found.append(Look(color, "dot", 1.4))
        else:
            found.append(Look(color, DASHES[used[each.method] % len(DASHES)], 2.4))
            used[each.method] += 1
    return found


def label(series: Series) -> str:
    """The series' name as text for Plotly, without markup."""
    return escape(cut(series.name, LIMIT))
