"""Uncertainty of an average: the bootstrap over clusters.

Prompts about one subject are not independent observations, and neither are the tokens of one prompt. So whole clusters
(subjects) are drawn with replacement, and an average over whatever they hold is a ratio of sums.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tracer.checks import whole

from .errors import StatisticsError

CHUNK = 4_000_000  # numbers in one matrix of weights, 32 MB


def bootstrap(
    sums: ArrayLike, counts: ArrayLike, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval (low, high), each [...], of the averages `sums.sum(0) / counts.sum(0)`.

    A single cluster gives an interval without width. An average over nothing has no interval (nan); nor has one over so
    few clusters that more than `1 - confidence` of the draws hold nothing of it: its spread cannot be seen. Draws that
    hold nothing are left out otherwise. Intervals from a few clusters are too narrow.

    Args:
        sums: [C, ...], what each of C clusters adds to every average.
        counts: [C, ...], of how many observations; its last axes may be left out or have size 1.
        resamples: how often C clusters are drawn with replacement (Efron & Tibshirani 1993, chapter 13). All averages
            share the draws, numpy's `default_rng(seed).integers(C, size=(resamples, C))`.
        confidence: probability that the interval should cover, such as 0.95.
        seed: seed of the draws.

    Raises:
        TracerError: settings out of range, or shapes that do not fit.
    """
    check_bootstrap(resamples, confidence, seed)
    above, below = _fitting(sums, counts)
    clusters = len(above)
    random = np.random.default_rng(seed)
    step = max(1, CHUNK // clusters)
    values = np.concatenate(
        [
            ratio(np.tensordot(weights, above, 1), np.tensordot(weights, below, 1))
            for weights in (
                cluster_weights(random, min(step, resamples - start), clusters) for start in range(0, resamples, step)
            )
        ]
    )
    return percentile_interval(values, confidence)


def clustered_mean(
    values: ArrayLike,
    clusters: Iterable[Hashable],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of `values` [n, ...] over its first axis with its interval: (mean, low, high), each [...].

    Nan values are left out. Averages without an interval are those of `bootstrap`.

    Args:
        values: [n, ...].
        clusters: n labels; values with the same label are drawn together.
        resamples: as for `bootstrap`.
        confidence: as for `bootstrap`.
        seed: as for `bootstrap`.
    """
    values = np.asarray(values, dtype=float)
    labels = list(clusters)
    there = ~np.isnan(values)
    sums = cluster_sums(np.where(there, values, 0.0), labels)
    counts = cluster_sums(there, labels)
    low, high = bootstrap(sums, counts, resamples=resamples, confidence=confidence, seed=seed)
    return ratio(sums.sum(0), counts.sum(0)), low, high


def cluster_sums(values: ArrayLike, clusters: Iterable[Hashable]) -> np.ndarray:
    """Sums [C, ...] of `values` [n, ...] over each of the C labels among `clusters`, in order of appearance."""
    values, labels = np.asarray(values, dtype=float), list(clusters)
    if not labels or values.ndim == 0 or len(values) != len(labels):
        raise StatisticsError(
            f"values have the shape {values.shape} and there are {len(labels)} cluster labels; expected one label for "
            "each entry of the first axis, and at least one"
        )
    order = {label: index for index, label in enumerate(dict.fromkeys(labels))}
    sums = np.zeros((len(order), *values.shape[1:]))
    np.add.at(sums, [order[label] for label in labels], values)
    return sums


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`sums / counts`, nan where there is nothing to average; `counts` broadcasts."""
    counts = np.broadcast_to(counts, np.shape(sums))
    return np.divide(sums, counts, out=np.full(np.shape(sums), np.nan), where=counts != 0)


def check_bootstrap(resamples: Any, confidence: Any, seed: Any) -> None:
    """Check the settings of `bootstrap`.

    Raises:
        TracerError: settings it cannot use.
    """
    expected = "a whole number of at least 1, such as 2000"
    whole("resamples", resamples, 1, kind=StatisticsError, expected=expected)
    if not isinstance(confidence, float | np.floating) or not 0 < confidence < 1:
        raise StatisticsError(f"confidence is {confidence!r}; expected a number between 0 and 1, such as 0.95")
    whole("seed of the bootstrap", seed, kind=StatisticsError)


def _fitting(sums: ArrayLike, counts: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays with the same number of axes."""
    above, below = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    missing = above.ndim - below.ndim
    wide = below.reshape(below.shape + (1,) * max(0, missing))
    fits = all(b in (a, 1) for a, b in zip(above.shape[1:], wide.shape[1:], strict=False))
    if above.ndim == 0 or missing < 0 or not len(above) or len(above) != len(wide) or not fits:
        raise StatisticsError(
            f"sums have the shape {above.shape} and counts {below.shape}; expected at least one cluster on the first "
            "axis of both, and counts that broadcast to the sums"
        )
    return above, wide


def cluster_weights(random: np.random.Generator, resamples: int, clusters: int) -> np.ndarray:
    """Counts of each cluster in each draw, [resamples, clusters]."""
    drawn = random.integers(clusters, size=(resamples, clusters))
    places = drawn + clusters * np.arange(resamples)[:, None]
    return np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)


def percentile_interval(values: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of `values` [resamples, ...]; draws that are nan are left out as long as they are few."""
    tails = np.array([1 - confidence, 1 + confidence]) / 2
    columns = values.reshape(len(values), -1)
    ends = np.quantile(columns, tails, axis=0)  # nan where any draw is
    empty = np.isnan(columns).mean(0)
    for column in np.flatnonzero((empty > 0) & (empty <= 1 - confidence)):
        some = columns[:, column]
        ends[:, column] = np.quantile(some[~np.isnan(some)], tails)
    low, high = ends.reshape(2, *values.shape[1:])
    return low, high


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation of two arrays of one shape; ties share their mean rank, nan pairs are left out.

    Nan where all values of one are equal.

    Raises:
        TracerError: shapes that differ.
    """
    import pandas as pd

    x, y = (np.asarray(values, dtype=float) for values in (a, b))
    if x.shape != y.shape:
        raise StatisticsError(
            f"arrays of the shapes {x.shape} and {y.shape} have no rank correlation; expected equal ones"
        )
    there = ~(np.isnan(x) | np.isnan(y))
    first, second = (pd.Series(values[there]).rank().to_numpy() for values in (x, y))
    if not there.any() or np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
