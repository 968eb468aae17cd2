"""An evaluation as text: every method by every measure."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from editing.questions.definitions import is_share
from editing.questions.metrics import HOWS, shown
from editing.questions.question import MEASURES
from tracer.text import printable

from .schema import Frame
from .series import divided, series_of

RUINED = "ruined"


def as_text(
    summary: Frame,
    scores: Frame,
    metrics: Frame,
    unknown: int = 0,
    width: int = 110,
    left_out: Mapping[str, str] | None = None,
) -> str:
    """One line per method and measure: teacher forced and free generation side by side, each with its interval.

    Args:
        summary: of the metrics.
        scores: CounterFact's S.
        metrics: the table of an evaluation.
        unknown: number of cases whose true answer the unedited model does not give.
        width: characters of a line.
        left_out: by model, what means nothing there.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    def literal(text: str) -> Text:
        return Text(printable(text), overflow="fold")

    console = Console(file=io.StringIO(), width=width, highlight=False, color_system=None, force_jupyter=False)
    console.print(literal(_head(metrics, unknown)), soft_wrap=True)
    for model, words in (left_out or {}).items():
        console.print(literal(f"left out, since they mean nothing for {model}: {words}"), soft_wrap=True)
    if summary.empty:
        return _written(console)
    right = [Column(name, justify="right", no_wrap=True) for name in ("teacher forced", "free generation", "cases")]
    table = Table(Column("method"), Column("measure"), *right, box=box.SIMPLE_HEAD, pad_edge=False)
    every = series_of(summary)
    for series, own, scored in zip(every, divided(summary, every), divided(scores, every), strict=True):
        rows = own.set_index("metric")
        lines = [("score S", cell(scored, True), "", _most(scored))]
        ruined = rows[rows.index == RUINED]
        if len(ruined) and float(ruined["mean"].iloc[0]) > 0:  # before anything else, which means little then
            lines.insert(0, ("! ruins the model", cell(ruined, True), "", _most(ruined)))
        for measure in MEASURES:
            forced, free = (rows[rows.index == f"{measure} ({how})"] for how in HOWS)
            lines.append((measure, cell(forced, True), cell(free, True), max(_most(forced), _most(free))))
        for name in (metric.name for metric in shown("measures")):
            own_number = rows[rows.index == name]
            lines.append((name, "", cell(own_number, True), _most(own_number)))
        for name in (metric.name for metric in shown("text")):
            lines.append((name, cell(rows[rows.index == name], is_share(name)), "", _most(rows)))
        name = series.name
        for measure, forced, free, count in lines:
            if forced or free:
                table.add_row(literal(name), measure, forced or "–", free or "–", f"{int(count):,}")
                name = ""
        table.add_section()
    console.print(table)
    return _written(console)


def cell(rows: Frame, share: bool) -> str:
    """The only row as "98.2 % [95.1, 99.8]", or nothing."""
    if rows.empty:
        return ""
    mean, low, high = (float(rows[name].iloc[0]) for name in ("mean", "low", "high"))
    shown = [f"{100 * each:.1f}" if share else f"{each:.4g}" for each in (mean, low, high)]
    ends = f" [{shown[1]}, {shown[2]}]" if np.isfinite([low, high]).all() else ""
    return shown[0] + " %" * share + ends


def _most(rows: Frame) -> int:
    return 0 if rows.empty else int(rows["n"].max())


def _head(metrics: Frame, unknown: int) -> str:
    parts = [
        ", ".join(dict.fromkeys(metrics["model"])),
        f"{metrics['case_id'].nunique():,} cases about {metrics['subject'].nunique():,} subjects",
        ", ".join(mode for mode in dict.fromkeys(metrics["mode"]) if mode),
        "means over cases, 95 % intervals over subjects",
        f"{unknown:,} cases whose true answer the unedited model does not give" if unknown else "",
    ]
    return " · ".join(filter(None, parts)) if len(metrics) else "nothing was measured yet"


def _written(console: Any) -> str:
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
