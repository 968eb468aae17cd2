"""Means over cases with intervals, and the harmonic score.

Every interval is a bootstrap over subjects (`tracer.statistics`): cases about one subject are drawn together.
Subjects are put in order first, so that the order of the rows changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from editing.questions.definitions import ordered, what_is
from editing.questions.metrics import harmonic
from tracer.errors import EmptySelection
from tracer.statistics import bootstrap, check_bootstrap, cluster_weights, percentile_interval, ratio

from .schema import LABELS, Frame
from .stages import STAGES, staged

HARMONIC = ("rewrite success", "paraphrase success", "neighbour success")


def summarise(
    metrics: Frame,
    by: Sequence[str] = LABELS,
    *,
    only: Sequence[str] | None = None,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Frame:
    """Means over cases with their intervals, one row per series, stage and metric.

    Each case is a mean over its own prompts, as published, with the weights of `staged`. An infinite value makes the
    mean infinite and leaves no interval. `ruined` is on every row, since the new answer is easily the likelier one in a
    model that says nothing else.

    Args:
        metrics: the table of an evaluation.
        by: the columns of `LABELS` that make a series; values of the others are pooled.
        only: the metrics wanted; None: all.
        level: of the intervals (percentile bootstrap over subjects, all metrics of a series from the same draws).
        resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        The columns of `by`, then stage, after (edits made when measured, NA where that differs from case to case),
            metric, code, mean, low, high, n (cases), prompts (all of theirs), subjects, and ruined (share of the
            series' edits that ruined the model; nan where it was not measured).

    Raises:
        TracerError: columns of `by` that are not labels, and settings the bootstrap cannot use.
    """
    import pandas as pd

    check(by, resamples, level, seed)
    ruined = _ruined(metrics, by)
    chosen = metrics if only is None else metrics[metrics["metric"].isin(list(only))]
    rows = []
    for key, group in series_in(staged(chosen), by):
        names = ordered(group["metric"].unique())
        sums, counts = sums_of(group, "metric", names)
        low, high = bootstrap(sums, counts, resamples=resamples, confidence=level, seed=seed)
        means = ratio(sums.sum(0), counts.sum(0))
        measured = dict(iter(group[group["value"].notna()].groupby("metric")))
        for place, name in enumerate(names):
            if name not in measured:
                continue
            one = measured[name]
            infinite = bool(np.isinf(one["value"]).any())
            row = {
                **key,
                "after": one["after"].iloc[0] if one["after"].nunique() == 1 else pd.NA,
                "metric": name,
                "code": what_is(name).code,
                "mean": float(one["value"].mean()) if infinite else float(means[place]),
                "low": np.nan if infinite else float(low[place]),
                "high": np.nan if infinite else float(high[place]),
                "n": one["case_id"].nunique(),
                "prompts": int(one["n"].sum()),
                "subjects": one["subject"].nunique(),
                "ruined": ruined.get(tuple(key.values()), np.nan),
            }
            rows.append(row)
    columns = [*by, "stage", "after", "metric", "code", "mean", "low", "high", "n", "prompts", "subjects", "ruined"]
    return pd.DataFrame(rows, columns=columns).astype({"after": "Int64"})


def score(
    metrics: Frame,
    by: Sequence[str] = LABELS,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Frame:
    """CounterFact's S, the harmonic mean of ES, PS and NS (Meng et al. 2022).

    Each of the three is a mean over cases; subjects are drawn once for all three. S is 0 where one of them is. Series
    that lack one of the three have no row.

    Args:
        metrics: the table of an evaluation.
        by: the columns of `LABELS` that make a series.
        level: of the intervals.
        resamples: draws of the bootstrap.
        seed: of the draws.

    Returns:
        The columns of `by`, then stage, after, mean, low, high, n (cases that have all of the three or some), and
            ruined, as of `summarise`.
    """
    import pandas as pd

    check(by, resamples, level, seed)
    ruined = _ruined(metrics, by)
    rows = []
    chosen = metrics[metrics["metric"].isin(HARMONIC) & metrics["value"].notna()]
    for key, group in series_in(staged(chosen), by):
        if set(group["metric"]) != set(HARMONIC):
            continue
        sums, counts = sums_of(group, "metric", HARMONIC)
        weights = cluster_weights(np.random.default_rng(seed), resamples, len(sums))
        low, high = percentile_interval(harmonic(*ratio(weights @ sums, weights @ counts).T), level)
        row = {
            **key,
            "after": group["after"].iloc[0] if group["after"].nunique() == 1 else pd.NA,
            "mean": harmonic(*ratio(sums.sum(0), counts.sum(0))),
            "low": float(low),
            "high": float(high),
            "n": group["case_id"].nunique(),
            "ruined": ruined.get(tuple(key.values()), np.nan),
        }
        rows.append(row)
    columns = [*by, "stage", "after", "mean", "low", "high", "n", "ruined"]
    return pd.DataFrame(rows, columns=columns).astype({"after": "Int64"})


def _ruined(metrics: Frame, by: Sequence[str]) -> dict[tuple[Any, ...], float]:
    """Share of edits that ruined the model, by series and stage."""
    own = metrics[(metrics["metric"] == "ruined") & metrics["value"].notna()]
    return {tuple(key.values()): float(group["value"].mean()) for key, group in series_in(staged(own), by)}


# --- shared ----------------------------------------------------------------------------------------------------------
def check(by: Sequence[str], resamples: Any, level: Any, seed: Any) -> None:
    """Check the options of a summary.

    Args:
        by: the columns that make a series.
        resamples: draws of the bootstrap.
        level: of the intervals.
        seed: of the draws.

    Raises:
        TracerError: columns that are not labels, or settings the bootstrap cannot use.
    """
    unknown = [name for name in by if name not in LABELS]
    if unknown or isinstance(by, str) or not by:
        raise EmptySelection(f"by is {by!r}; expected some of {', '.join(LABELS)}")
    check_bootstrap(resamples, level, seed)


def series_in(rows: Frame, by: Sequence[str]) -> Iterator[tuple[dict[str, Any], Frame]]:
    """Rows of each series (and stage, where there is one), in order of appearance."""
    keys = [*by, "stage"] if "stage" in rows.columns else list(by)
    order = {stage: place for place, stage in enumerate(STAGES)}
    groups = [(dict(zip(keys, key, strict=True)), group) for key, group in rows.groupby(keys, sort=False)]
    appeared = {tuple(key[name] for name in by): place for place, (key, _) in reversed(list(enumerate(groups)))}
    groups.sort(key=lambda pair: (appeared[tuple(pair[0][k] for k in by)], order.get(pair[0].get("stage", ""), 0)))
    yield from groups


def sums_of(group: Frame, column: str, names: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums of values and sums of weights, [subjects, names]; values that are not finite are left out."""
    subjects, at = np.unique(group["subject"].to_numpy(dtype=str), return_inverse=True)
    places = {name: place for place, name in enumerate(names)}
    to = group[column].map(places).to_numpy()
    values, weights = group["value"].to_numpy(), group["weight"].to_numpy()
    finite = np.isfinite(values)
    sums, counts = np.zeros((2, len(subjects), len(names)))
    np.add.at(sums, (at[finite], to[finite]), (values * weights)[finite])
    np.add.at(counts, (at[finite], to[finite]), weights[finite])
    return sums, counts
