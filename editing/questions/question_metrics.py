"""Metrics of one question: the same functions wherever an answer is scored.

In an outcome, in the choice of layers, in an evaluation and its report ES is `QUESTION_METRICS["success"]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .answer import NAN, Answer
from .metric import Metric


def success(one: Answer, _: Answer | None = None) -> float:
    """1 where the wanted answer has the lower nll per token of the two, strictly."""
    known = math.isfinite(one.nll) and math.isfinite(one.nll_against)
    return float(one.nll < one.nll_against) if known else NAN


def magnitude(one: Answer, _: Answer | None = None) -> float:
    """exp(-nll) of the wanted answer less that of the other."""
    return math.exp(-one.nll) - math.exp(-one.nll_against)  # nan stays nan


def accuracy(one: Answer, _: Answer | None = None) -> float:
    """Share of the answer's tokens that are the argmax, each after the right ones before it."""
    return one.accuracy


def exact(one: Answer, _: Answer | None = None) -> float:
    """1 where all of the answer's tokens are the argmax."""
    return one.exact


def generated(one: Answer, _: Answer | None = None) -> float:
    """1 where free greedy generation names the answer."""
    return one.match


def unchanged(one: Answer, old: Answer | None = None) -> float:
    """Share of the answer's places with the same argmax as before the edit; nan where that is not known."""
    if old is None or not one.greedy or len(one.greedy) != len(old.greedy):
        return NAN
    return float(np.mean(np.array(one.greedy) == np.array(old.greedy)))


def hit(one: Answer, _: Answer | None = None) -> float:
    """1 where an entry of a memory acted, 0 where none did; nan for a model without memories."""
    return float(any(each.hit for each in one.routes)) if one.routes else NAN


def _question_metrics() -> Iterator[Metric]:
    def metric(name: str, unit: str, what: str, function: Callable[..., float], **more: Any) -> Metric:
        return Metric(name, "", "higher", unit, what, "question", function, **more)

    yield metric(
        "success",
        "share",
        "Share of prompts where the wanted answer has a lower mean loss per token than the other (Meng et al. 2022).",
        success,
    )
    yield metric(
        "magnitude",
        "difference",
        "Difference of exp(-mean loss per token) of the wanted and of the other answer, the geometric means of their "
        "tokens' probabilities (Meng et al. 2022).",
        magnitude,
    )
    yield metric(
        "accuracy",
        "share",
        "Share of the answer's tokens that are the argmax, teacher forced (what EasyEdit reports as accuracy, and Meng "
        "et al. 2023 for zsRE).",
        accuracy,
    )
    yield metric(
        "exact",
        "share",
        "Share of prompts where every token of the answer is the argmax, teacher forced (the accuracy of Meng et al. "
        "2023 for CounterFact).",
        exact,
    )
    yield metric(
        "generated",
        "share",
        "Share of prompts whose free greedy generation names the answer, and nothing longer (after Yang et al. 2025).",
        generated,
    )
    yield metric(
        "unchanged",
        "share",
        "Share of the answer's places with the same argmax as before the edit, right or wrong (EasyEdit's locality).",
        unchanged,
        wordings=False,
    )
    yield replace(
        metric(
            "hit", "share", "Share of prompts on which an entry of a memory of the model acts.", hit, wordings=False
        ),
        better=None,
    )


QUESTION_METRICS: dict[str, Metric] = {metric.name: metric for metric in _question_metrics()}
"""Metrics of one question by name. Those of a kind of questions, "rewrite success", are made of them."""


def mean_of(
    measured: Callable[..., float], pairs: Sequence[tuple[Answer, Answer | None]], wordings: bool = True
) -> tuple[float, int]:
    """The mean over questions, and their number.

    Args:
        measured: a question's number, nan where it was not measured.
        pairs: answers, each with the unedited model's.
        wordings: whether of wordings of one question the best counts.
    """
    best: dict[object, float] = {}
    for place, (one, old) in enumerate(pairs):
        value = measured(one, old)
        if not math.isnan(value):
            question = (one.kind, one.either) if wordings and one.either is not None else place
            best[question] = max(value, best.get(question, value))
    return (float(np.mean(list(best.values()))), len(best)) if best else (NAN, 0)
