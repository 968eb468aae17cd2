"""The tables of the page as plain lists: texts shown, and keys to sort by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from editing.evaluation.result.schema import Frame
from editing.evaluation.result.series import Series, divided, series_of
from editing.questions.definitions import SCORE, is_share, what_is
from editing.questions.metrics import HOWS
from editing.questions.metrics import shown as shown_on
from editing.questions.question import MEASURES
from tracer.statistics import clustered_mean

if TYPE_CHECKING:
    from editing.evaluation.result.evaluation import Evaluation

Cell = str | list[Any]  # a text, or [number or None to sort by, text shown, small text below]


def grid(columns: Sequence[tuple[str, str]], rows: list[list[Cell]]) -> dict[str, Any]:
    """A table.

    Args:
        columns: title and hint of each.
        rows: of cells.
    """
    return {"columns": [{"title": title, "hint": hint} for title, hint in columns], "rows": rows}


def number(value: Any, share: bool = False, low: float = np.nan, high: float = np.nan) -> list[Any]:
    """A cell of a number, with its interval below it where it has one."""
    value = float(value)
    if np.isnan(value):
        return [None, "–", ""]
    ends = f"[{shown(low, share)}, {shown(high, share)}]" if np.isfinite([low, high]).all() else ""
    return [value if np.isfinite(value) else None, shown(value, share) + " %" * share, ends]


def count(value: Any) -> list[Any]:
    """A cell of a whole number."""
    return [int(value), f"{int(value):,}", ""]


def shown(value: float, share: bool) -> str:
    """A number as text; a share in per cent."""
    return f"{100 * value:.1f}" if share else f"{value:.4g}"


def methods(summary: Frame, scores: Frame, series: Sequence[Series]) -> dict[str, Any]:
    """One row per series: the harmonic score, every measure forced and generated, scores of generated text, cases."""
    known = set(summary["metric"])
    measured = [
        (f"{measure} ({how})", f"{measure}, {how}")
        for measure in MEASURES
        for how in HOWS
        if f"{measure} ({how})" in known
    ]
    measured += [(name, name) for name in (metric.name for metric in shown_on("page")) if name in known]
    columns = [("method", "")]
    columns += [("S", SCORE.what)] * (len(scores) > 0)
    columns += [(title, what_is(name).what) for name, title in measured]
    columns.append(("cases", "cases that were measured"))
    rows = []
    for each, part, scored in zip(series, divided(summary, series), divided(scores, series), strict=True):
        own = part.set_index("metric")
        cells: list[Cell] = [each.name]
        if len(scores):
            cells.append(_interval(scored, True))
        cells += [_interval(own[own.index == name], is_share(name)) for name, _ in measured]
        rows.append([*cells, count(own["n"].max())])
    return grid(columns, rows)


def everything(summary: Frame, series: Sequence[Series]) -> dict[str, Any]:
    """One row per series and metric."""
    columns = [("method", ""), ("metric", ""), ("code", "short name in published tables"), ("mean", "over cases")]
    columns += [("low", "lower end of the interval"), ("high", "upper end"), ("cases", ""), ("prompts", "")]
    columns.append(("subjects", "clusters of the bootstrap"))
    rows = []
    for each, own in zip(series, divided(summary, series), strict=True):
        for row in own.to_dict("records"):
            share = is_share(row["metric"])
            values = [number(row[name], share) for name in ("mean", "low", "high")]
            counts = [count(row[name]) for name in ("n", "prompts", "subjects")]
            rows.append([each.name, row["metric"], row["code"], *values, *counts])
    return grid(columns, rows)


def costs(evaluation: Evaluation) -> dict[str, Any]:
    """One row per method: number of edits made, their seconds and sizes."""
    columns = [("method", ""), ("edits", "edits that were made"), ("failed", "edits that could not be made")]
    columns += [("seconds", "mean time of an edit, with its interval over cases"), ("median", "of the seconds")]
    columns += [("peak memory", "highest over all edits"), ("norm", "mean Frobenius norm of a whole edit")]
    columns.append(("rank", "highest rank of an edit"))
    edits = evaluation.edits
    rows = []
    series = series_of(edits)
    for each, own in zip(series, divided(edits, series), strict=True):
        made = own[own["error"] == ""]
        timed = made[made["seconds"].notna()].sort_values("case_id")
        seconds = number(np.nan)
        if len(timed):
            mean, low, high = clustered_mean(timed["seconds"].to_numpy(), timed["case_id"])
            seconds = number(mean, low=float(low), high=float(high))
        peak, rank = made["peak_bytes"].max(), made["rank"].max()
        cells: list[Cell] = [each.name, count(len(made)), count(len(own) - len(made)), seconds]
        cells += [number(made["seconds"].median()), _bytes(peak), number(made["norm"].mean())]
        rows.append([*cells, count(rank) if _there(rank) else number(np.nan)])
    return grid(columns, rows)


def failures(evaluation: Evaluation) -> dict[str, Any]:
    """One row per edit that could not be made."""
    edits = evaluation.edits
    rows: list[list[Cell]] = []
    series = series_of(edits)
    for each, own in zip(series, divided(edits, series), strict=True):
        rows += [[each.name, row["case_id"], row["error"]] for row in own[own["error"] != ""].to_dict("records")]
    return grid([("method", ""), ("case", ""), ("why", "")], rows)


def _interval(rows: Frame, share: bool) -> list[Any]:
    """The cell of the only row, or an empty one."""
    if rows.empty:
        return number(np.nan)
    row = rows.iloc[0]
    return number(row["mean"], share, float(row["low"]), float(row["high"]))


def _there(value: Any) -> bool:
    import pandas as pd

    return not pd.isna(value)


def _bytes(value: Any) -> list[Any]:
    if not _there(value):
        return number(np.nan)
    size = int(value)
    return [size, f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB", ""]
