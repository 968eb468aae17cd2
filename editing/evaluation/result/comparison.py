"""Paired comparison of two methods over the same cases: far sharper than two intervals side by side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from editing.questions.definitions import ordered
from tracer.errors import EmptySelection
from tracer.statistics import check_bootstrap, clustered_mean

from .schema import LABELS, UNEDITED, Frame
from .stages import STAGES, staged

Select = str | Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """A metric of two series over the cases that both have.

    Attributes:
        a: name of the first series.
        b: name of the second.
        metric: which metric.
        mean_a: mean of a over those cases.
        mean_b: mean of b over those cases.
        difference: mean of the differences a - b case by case.
        low: lower end of its interval.
        high: upper end of its interval.
        n: cases that both have.
        subjects: subjects of these cases.
        only_a: cases of a alone; they are left out.
        only_b: cases of b alone; they are left out.
    """

    a: str
    b: str
    metric: str
    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    n: int
    subjects: int
    only_a: int
    only_b: int

    def __str__(self) -> str:
        left = f", {self.only_a + self.only_b} cases of one alone left out" if self.only_a + self.only_b else ""
        return (
            f"{self.metric}: {self.a} {self.mean_a:.4f}, {self.b} {self.mean_b:.4f}; difference "
            f"{self.difference:+.4f} [{self.low:+.4f}, {self.high:+.4f}] over {self.n} cases{left}"
        )


def compare(
    metrics: Frame,
    a: Select,
    b: Select,
    metric: str,
    *,
    stage: str = "edited",
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """The difference a - b of a metric case by case, with its interval: the same cases, so their difficulty cancels.

    Args:
        metrics: the table of an evaluation.
        a: a method's name (of its own edits, not of its controls), or labels and their values, such as `{"method":
            "rome", "control": "random layer", "mode": "single"}`. Several seeds of a case are averaged.
        b: the other series, likewise.
        metric: its name.
        stage: of edited series: "edited" or "end", see `staged`.
        level: of the interval (percentile bootstrap over subjects).
        resamples: draws of the bootstrap.
        seed: of the draws.

    Raises:
        TracerError: a selection that is empty or of several models, layers or modes; no case is in both.
    """
    check_bootstrap(resamples, level, seed)
    if stage not in STAGES:
        raise EmptySelection(f"stage is {stage!r}; expected one of {', '.join(STAGES)}")
    known = list(metrics["metric"].unique())
    if metric not in known:
        raise EmptySelection(f"no case has the metric {metric!r}; expected one of {', '.join(ordered(known))}")
    rows = staged(metrics[(metrics["metric"] == metric) & np.isfinite(metrics["value"])])
    (name_a, first), (name_b, second) = (_selected(rows, each, stage) for each in (a, b))
    both = [case for case in first.index if case in second.index]
    if not both:
        raise EmptySelection(
            f"{name_a} and {name_b} have no case in common that has {metric!r}, so that nothing can be paired; "
            "evaluate both on the same records"
        )
    subjects = rows.drop_duplicates("case_id").set_index("case_id")["subject"][both]
    order = np.argsort(subjects.to_numpy(), kind="stable")
    values = np.stack([each[both].to_numpy() for each in (first, second)], axis=1)[order]
    difference, low, high = clustered_mean(
        values[:, 0] - values[:, 1], subjects.iloc[order], resamples=resamples, confidence=level, seed=seed
    )
    return Comparison(
        a=name_a,
        b=name_b,
        metric=metric,
        mean_a=float(values[:, 0].mean()),
        mean_b=float(values[:, 1].mean()),
        difference=float(difference),
        low=float(low),
        high=float(high),
        n=len(both),
        subjects=subjects.nunique(),
        only_a=len(first) - len(both),
        only_b=len(second) - len(both),
    )


def _selected(rows: Frame, select: Select, stage: str) -> tuple[str, Frame]:
    """Name of a series, and its mean value per case."""
    labels = {"method": select, "control": ""} if isinstance(select, str) else {"control": "", **select}
    unknown = labels.keys() - set(LABELS)
    if unknown:
        raise EmptySelection(f"{sorted(unknown)[0]!r} is no label; select by {', '.join(LABELS)}")
    name = " ".join(str(value) for value in labels.values() if value != "")
    stage = UNEDITED if labels.get("method") == UNEDITED else stage
    chosen = rows[(rows["stage"] == stage) & np.logical_and.reduce([rows[key] == v for key, v in labels.items()])]
    if chosen.empty:
        there = ", ".join(dict.fromkeys(rows.loc[rows["stage"] == stage, "method"]))
        raise EmptySelection(
            f"no case of {name} has this metric at the stage {stage!r}; it is known of: {there or '-'}"
        )
    for label in LABELS:
        found = list(chosen[label].unique())
        if label != "seed" and len(found) > 1:
            raise EmptySelection(f"{name} has several values of {label}: {', '.join(map(repr, found))}; select one")
    return name, chosen.groupby("case_id")["value"].mean()
