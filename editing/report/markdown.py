"""An evaluation as Markdown tables, one for each mode, for a README or a paper's appendix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.schema import LABELS, UNEDITED, Frame
from editing.evaluation.result.series import Series, divided, series_of
from editing.questions.definitions import is_share
from editing.questions.metrics import HOWS, shown
from editing.questions.question import MEASURES
from tracer.errors import EmptySelection

_MEASURES = {measure: tuple(f"{measure} ({how})" for how in HOWS) for measure in MEASURES}
COLUMNS: dict[str, tuple[str, ...]] = {
    "score S": (),
    "ruined models": ("ruined",),
    **{measure: names for measure, names in _MEASURES.items() if measure != "portability"},
    "other facts of the subject": ("same_subject generated",),
    "portability": _MEASURES["portability"],
    **{metric.title or metric.name: (metric.name,) for metric in shown("markdown")},
}
"""Titles, and the metrics that share a cell: teacher forced / generated freely."""


def as_markdown(evaluation: Evaluation, *, columns: Sequence[str] | None = None, controls: bool = True) -> str:
    """Means over cases with 95 % intervals over subjects; shares in per cent, teacher forced / generated freely.

    Args:
        evaluation: the measurements.
        columns: titles of `COLUMNS`; None: all. Those that were not measured are left out.
        controls: with rows of random layers and directions.

    Raises:
        TracerError: an unknown title.
    """
    chosen = tuple(COLUMNS) if columns is None else tuple(columns)
    unknown = [title for title in chosen if title not in COLUMNS]
    if unknown:
        raise EmptySelection(f"the table has no column {unknown[0]!r}; expected some of {', '.join(COLUMNS)}")
    summary, scores = evaluation.summary(), evaluation.score()
    every = [each for each in series_of(summary) if controls or not each.key[LABELS.index("control")]]
    of = dict(zip(every, zip(divided(summary, every), divided(scores, every), strict=True), strict=True))
    parts = []
    for mode in dict.fromkeys(_mode(each) for each in every if each.method != UNEDITED):
        some = [each for each in every if each.method == UNEDITED or _mode(each) == mode]
        parts.append(f"**{mode}**\n\n{_table(some, of, chosen, known=set(summary['metric']))}")
    return "\n\n".join(parts) + "\n"


def _mode(series: Series) -> str:
    return series.key[LABELS.index("mode")]


def _table(
    chosen: Sequence[Series], of: dict[Series, tuple[Frame, Frame]], columns: Sequence[str], known: set[Any]
) -> str:
    titles = [title for title in columns if not COLUMNS[title] or known & {*COLUMNS[title]}]
    if not any((of[each][0]["ruined"] > 0).any() for each in chosen):  # the column stands where there is one
        titles = [title for title in titles if COLUMNS[title] != ("ruined",)]
    lines = [["", *titles, "cases"]]
    for series in chosen:
        rows, scored = of[series]
        by = rows.set_index("metric")
        cells = []
        for title in titles:
            names = COLUMNS[title]
            found = [_cell(by[by.index == name], is_share(name)) for name in names] if names else [_cell(scored, True)]
            cells.append("–" if not any(found) else " / ".join(each or "–" for each in found))
        name = series.name.removesuffix(f" · {_mode(series)}").replace(f" · {_mode(series)} · ", " · ")
        lines.append([name, *cells, f"{int(rows['n'].max()):,}"])
    lines.insert(1, ["---", *["---:"] * (len(titles) + 1)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(rows: Frame, share: bool) -> str:
    """The only row as "98.2 [95.1, 99.8]", or nothing."""
    if rows.empty:
        return ""
    mean, low, high = (float(rows[name].iloc[0]) for name in ("mean", "low", "high"))
    shown = [f"{100 * each:.1f}" if share else f"{each:.3g}" for each in (mean, low, high)]
    return shown[0] if low != low or high != high or low == high else f"{shown[0]} [{shown[1]}, {shown[2]}]"
