"""Success of an edit: reliability, generalisation and locality of its questions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from tracer.errors import QuestionError

from .answer import Answer
from .asking import ask
from .probes import Probes
from .question import MEASURES
from .question_metrics import QUESTION_METRICS

if TYPE_CHECKING:
    from tracer.model import Model

By = Literal["preferred", "greedy"]
METRIC_BY = {"preferred": "success", "greedy": "exact"}
SCORED = {MEASURES[measure][0]: measure for measure in ("reliability", "generalisation", "locality")}
"""Measures of an edit by the kind of questions they are a mean of."""


def edit_scores(
    model: Model, probes: Sequence[Probes], by: By = "preferred", *, max_rows: int | None = None
) -> dict[str, np.ndarray]:
    """Reliability, generalisation and locality of n edits in the model as it is: means of a metric by kind.

    "reliability margin" and so on are means of the metric "magnitude" (CounterFact's EM, PM and NM); where the true
    answer is not known, of exp(-nll) of the wanted one alone.

    Args:
        model: as it is.
        probes: the questions about each edit. "reliability" is of the edited prompt itself, "generalisation" of its
            paraphrases, "locality" of its neighbours (of those whose true answer is known).
        by: the metric. "preferred": "success" (CounterFact's ES, PS and NS). "greedy": "exact".
        max_rows: most rows in a forward; None: by memory.

    Returns:
        Arrays [n] by measure, nan where there is no question for it.

    Raises:
        TracerError: a true answer that is needed and unknown; as `ask` does.
    """
    if by not in METRIC_BY:
        raise QuestionError(f"by is {by!r}; expected 'preferred' or 'greedy'")
    asked = [
        question.of_case(case)
        for case, each in enumerate(probes)
        for question in each.questions
        if question.kind in SCORED and question.answer is not None
    ]
    for question in asked:
        if question.against is None and by == "preferred":
            raise QuestionError(
                f"the true answer to {question.prompt!r} is not known, and there is nothing to compare the new one "
                "with; give target_true, or score by='greedy'"
            )
    answers = ask(model, asked, max_rows=max_rows).each
    share = QUESTION_METRICS[METRIC_BY[by]].function
    results = {f"{name}{end}": np.full(len(probes), np.nan) for end in ("", " margin") for name in SCORED.values()}
    by_case: dict[tuple[str, int], list[Answer]] = {}
    for question, answer in zip(asked, answers, strict=True):
        by_case.setdefault((SCORED[question.kind], question.case), []).append(answer)
    for (name, case), some in by_case.items():
        results[name][case] = np.mean([share(one, None) for one in some])
        results[f"{name} margin"][case] = np.mean([_margin(one) for one in some])
    return results


def _margin(one: Answer) -> float:
    return math.exp(-one.nll) if one.against is None else QUESTION_METRICS["magnitude"].function(one, None)
