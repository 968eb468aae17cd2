"""Retention: effect of later edits on earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from editing.questions.definitions import ordered
from tracer.errors import EmptySelection
from tracer.statistics import bootstrap, ratio

from .schema import LABELS, UNEDITED, Frame
from .stages import retained
from .summary import check, series_in, sums_of

RELIABLE = ("reliability (generated)", "rewrite generated", "rewrite exact", "rewrite success")
"""Metrics of whether an edit holds; the first that was measured counts."""


@dataclass(frozen=True, eq=False)
class Retention:
    """Effect of later edits on earlier ones.

    Attributes:
        metric: metric of the edits.
        curve: the columns of `by`, then after, mean, low, high, n: the mean over the edits made so far, when `after`
            were made, n of which were measured; see `retained` for the moments and weights.
        matrix: the columns of `by`, then position, after, mean, n: of the edit at `position` alone, at every moment.
    """

    metric: str
    curve: Frame
    matrix: Frame


def retention(
    metrics: Frame,
    metric: str | None = None,
    by: Sequence[str] = LABELS,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Retention:
    """A metric of edits already made, against the number of edits, from rows of mode "sequential".

    Early points have no interval where they are of so few subjects that many draws do not contain them.

    Args:
        metrics: the table of an evaluation.
        metric: its name; None: the first of `RELIABLE` that was measured, so that the curve is the share of edits that
            still hold.
        by: the columns of `LABELS` that make a series.
        level: of the intervals (percentile bootstrap over subjects).
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        TracerError: no row of mode "sequential" has the metric.
    """
    import pandas as pd

    check(by, resamples, level, seed)
    rows = metrics[(metrics["mode"] == "sequential") & (metrics["method"] != UNEDITED) & np.isfinite(metrics["value"])]
    rows = rows[rows["after"] > rows["position"]]
    there = list(rows["metric"].unique())
    if not there:
        raise EmptySelection(
            "nothing was measured after edits of mode 'sequential', so that there is no retention; evaluate with "
            "mode='sequential'"
        )
    chosen = metric or next((name for name in RELIABLE if name in there), there[0])
    if chosen not in there:
        raise EmptySelection(
            f"edits of mode 'sequential' have no {chosen!r}; expected one of {', '.join(ordered(there))}"
        )
    rows = rows[rows["metric"] == chosen].sort_values(["after", "position"], kind="stable").reset_index(drop=True)
    curve, matrix = [], []
    for key, group in series_in(rows, by):
        back = retained(group)
        afters = sorted(back["after"].unique())
        sums, counts = sums_of(back, "after", afters)
        low, high = bootstrap(sums, counts, resamples=resamples, confidence=level, seed=seed)
        means = ratio(sums.sum(0), counts.sum(0))
        cases = back.groupby("after")["case_id"].nunique()
        for place, after in enumerate(afters):
            ends = {"low": float(low[place]), "high": float(high[place])}
            curve.append({**key, "after": int(after), "mean": float(means[place]), **ends, "n": int(cases[after])})
        cells = group.groupby(["position", "after"])["value"].agg(["mean", "size"]).reset_index()
        matrix.append(cells.rename(columns={"size": "n"}).assign(**key))
    columns = [*by, "position", "after", "mean", "n"]
    return Retention(
        metric=chosen,
        curve=pd.DataFrame(curve, columns=[*by, "after", "mean", "low", "high", "n"]),
        matrix=pd.concat(matrix, ignore_index=True)[columns],
    )
