"""Definitions of the metrics, and their order in tables."""

from __future__ import annotations

from collections.abc import Iterable

from .metrics import METRICS, Metric

SCORE = Metric(
    "score",
    "S",
    "higher",
    "share",
    "Harmonic mean of ES, PS and NS, each a mean over cases (Meng et al. 2022); 0 where one of them is.",
)


def what_is(name: str) -> Metric:
    """The definition of a metric; of an unknown one only its name."""
    return METRICS.get(name) or Metric(name, "", None, "", "")


def ordered(names: Iterable[str]) -> list[str]:
    """Names of metrics in the order of their definitions, those without one behind, by name."""
    place = {name: index for index, name in enumerate(METRICS)}
    return sorted({*names}, key=lambda name: (place.get(name, len(place)), name))


def is_share(name: str) -> bool:
    """Whether the values are shares from 0 to 1."""
    return what_is(name).unit == "share"
