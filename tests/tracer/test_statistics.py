"""Intervals: against a plain loop over the same draws, known special cases, and how often they cover the truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tracer import statistics
from tracer.errors import TracerError
from tracer.statistics import bootstrap, cluster_sums, clustered_mean, rank_correlation, ratio


def plain(sums: np.ndarray, counts: np.ndarray, resamples: int, confidence: float, seed: int) -> np.ndarray:
    """The bootstrap by the plain loop, [2, ...]."""
    draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    values = np.array([sums[draw].sum(0) / counts[draw].sum(0) for draw in draws])
    return np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)], axis=0)


@pytest.mark.parametrize("chunk", [statistics.CHUNK, 100])
@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_equals_the_plain_loop(shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "CHUNK", chunk)  # several matrices of weights give the same draws
    random = np.random.default_rng(0)
    sums, counts = random.normal(size=(7, *shape)), random.integers(1, 5, size=(7, *shape))
    low, high = bootstrap(sums, counts, resamples=301, confidence=0.8, seed=5)
    np.testing.assert_allclose([low, high], plain(sums, counts, 301, 0.8, 5), atol=1e-14)
    assert (low < high).all()


def test_counts_broadcast() -> None:
    random = np.random.default_rng(0)
    sums, counts = random.normal(size=(9, 3, 4)), random.integers(1, 5, size=(9, 3))
    full = np.broadcast_to(counts[..., None], sums.shape)
    for given in (counts, counts[..., None]):
        np.testing.assert_array_equal(bootstrap(sums, given, resamples=50), bootstrap(sums, full, resamples=50))
    one = bootstrap(sums, counts[:, 0], resamples=50)
    np.testing.assert_array_equal(np.array(one)[:, 0], np.array(bootstrap(sums[:, 0], counts[:, 0], resamples=50)))


def test_the_seed_decides() -> None:
    sums = np.random.default_rng(0).normal(size=12)
    same = [bootstrap(sums, np.ones(12), resamples=100, seed=s) for s in (3, 3, 4)]
    assert same[0] == same[1] != same[2]


def test_one_cluster_has_no_width() -> None:
    low, high = bootstrap(np.array([[3.0, 1.0]]), np.array([[2.0, 3.0]]), resamples=20)
    assert low.tolist() == high.tolist() == [1.5, 1 / 3]


def test_equal_values_have_no_width() -> None:
    mean, low, high = clustered_mean(np.full(50, 0.25), np.arange(50) // 3, resamples=100)
    assert mean == low == high == 0.25


def test_nothing_has_no_interval() -> None:
    sums, counts = np.ones((4, 2)), np.array([[1.0, 0.0]] * 4)
    low, high = bootstrap(sums * counts, counts, resamples=50)
    assert low[0] == high[0] == 1
    assert np.isnan([low[1], high[1]]).all()


@pytest.mark.parametrize(("held", "clusters", "some"), [(1, 20, False), (2, 20, False), (4, 20, True), (4, 100, True)])
def test_draws_that_hold_nothing(held: int, clusters: int, some: bool) -> None:
    """Left out where they are few; but an average over one or two of many clusters has no interval."""
    sums, counts = np.zeros(clusters), np.zeros(clusters)
    sums[:held], counts[:held] = np.arange(1, held + 1), 1
    low, high = bootstrap(sums, counts, resamples=4000)
    assert np.isfinite([low, high]).all() == some
    if some:
        draws = np.random.default_rng(0).integers(clusters, size=(4000, clusters))
        values = [sums[draw].sum() / counts[draw].sum() for draw in draws if counts[draw].any()]
        assert 0 < len(values) < 4000
        np.testing.assert_allclose([low, high], np.percentile(values, [2.5, 97.5]), atol=1e-14)


def test_clustered_mean_leaves_nan_out() -> None:
    values = np.array([[1.0, np.nan], [3.0, np.nan], [5.0, np.nan], [np.nan, np.nan]])
    labels = ["a", "b", "a", "b"]
    mean, low, high = clustered_mean(values, labels, resamples=200, seed=1)
    assert mean[0] == 3
    expected = bootstrap(np.array([6.0, 3.0]), np.array([2.0, 1.0]), resamples=200, seed=1)
    assert (low[0], high[0]) == expected
    assert np.isnan([mean[1], low[1], high[1]]).all()


def test_sums_by_cluster_in_order_of_appearance() -> None:
    values = np.array([[1.0, 10], [2, 20], [3, 30], [4, 40]])
    np.testing.assert_array_equal(cluster_sums(values, ["z", "a", "z", "m"]), [[4, 40], [2, 20], [4, 40]])


def test_ratio_of_nothing_is_nan() -> None:
    np.testing.assert_array_equal(ratio(np.array([[1.0, 2], [0, 0]]), np.array([[2.0], [0]])), [[0.5, 1], [np.nan] * 2])


def test_intervals_cover_the_truth() -> None:
    """40 clusters of 1 to 8 values that share most of their variance; the true mean is 0."""
    random = np.random.default_rng(0)
    covered, covered_naively, wider = 0, 0, 0
    trials = 400
    for trial in range(trials):
        labels = np.repeat(np.arange(40), random.integers(1, 9, size=40))
        values = random.normal(size=40)[labels] + 0.5 * random.normal(size=len(labels))
        _, low, high = clustered_mean(values, labels, resamples=400, seed=trial)
        _, naive_low, naive_high = clustered_mean(values, range(len(values)), resamples=400, seed=trial)
        covered += bool(low <= 0 <= high)
        covered_naively += bool(naive_low <= 0 <= naive_high)
        wider += bool(high - low > naive_high - naive_low)
    assert 0.91 <= covered / trials <= 0.97  # 95 %, the percentile interval a little less
    assert covered_naively / trials < 0.75
    assert wider == trials


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resamples": 0}, "resamples is 0; expected a whole number of at least 1"),
        ({"resamples": 2.5}, "resamples is 2.5"),
        ({"confidence": 0.0}, "confidence is 0.0; expected a number between 0 and 1"),
        ({"confidence": 1.0}, "confidence is 1.0"),
        ({"confidence": 95}, "confidence is 95"),
        ({"confidence": float("nan")}, "confidence is nan"),
        ({"seed": -1}, "seed of the bootstrap is -1"),
        ({"seed": None}, "seed of the bootstrap is None"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        bootstrap(np.ones(3), np.ones(3), **settings)


@pytest.mark.parametrize(
    ("sums", "counts"), [((3, 2), (2, 2)), ((3, 2), (3, 5)), ((3,), (3, 2)), ((0, 2), (0, 2)), ((), ())]
)
def test_shapes_that_do_not_fit(sums: tuple[int, ...], counts: tuple[int, ...]) -> None:
    with pytest.raises(TracerError, match=r"sums have the shape .* expected at least one cluster"):
        bootstrap(np.ones(sums), np.ones(counts))


@pytest.mark.parametrize(("values", "labels"), [([1.0, 2.0], ["a"]), ([], [])])
def test_labels_that_do_not_fit(values: list[float], labels: list[str]) -> None:
    with pytest.raises(TracerError, match="expected one label for each entry"):
        clustered_mean(values, labels)


def test_rank_correlation_is_that_of_ranks() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # ranks 1, 2.5, 2.5, 4 and 2, 1, 3, 4 by hand
    a, b = np.array([1, 2.5, 2.5, 4]), np.array([2, 1, 3, 4.0])
    expected = ((a - 2.5) * (b - 2.5)).sum() / np.sqrt(((a - 2.5) ** 2).sum() * ((b - 2.5) ** 2).sum())
    assert rank_correlation([0, 7, 7, 9], [5, -1, 6, 60]) == pytest.approx(expected)
    assert rank_correlation([1, 2, np.nan, 3], [3, 2, 9, 1]) == pytest.approx(-1)
    assert rank_correlation([[1, 2], [3, 4]], [[1, 2], [3, 4]]) == pytest.approx(1)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert np.isnan(rank_correlation([np.nan], [1]))
    with pytest.raises(TracerError, match="expected equal ones"):
        rank_correlation([1, 2], [1, 2, 3])
