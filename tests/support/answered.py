"""Answers by hand, from the probabilities of targets of one token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from editing.questions.answer import Answer
from editing.questions.answers import Answers
from editing.questions.probes import Probes
from editing.questions.question import Question


def answered(
    questions: Sequence[Question],
    new: Sequence[float],
    true: Sequence[float],
    written: Sequence[str],
    texts: dict[str, str] | None = None,
) -> Answers:
    """Answers in which greedy decoding writes what is more probable than one half; nan: an answer that is not known."""

    def one(question: Question, new: float, true: float, text: str) -> Answer:
        with np.errstate(divide="ignore"):
            logs = np.log([new, true] if question.wants_new else [true, new]).tolist()
        says = [float("nan") if np.isnan(log) else float(log > np.log(0.5)) for log in logs]
        return Answer(
            question.kind,
            question.prompt,
            question.answer,
            question.against,
            None,
            nll=-logs[0],
            nll_against=-logs[1],
            accuracy=says[0],
            exact=says[0],
            greedy=(),
            generated=text,
            match=float("nan"),
            log_prob=logs[0],
            log_prob_against=logs[1],
            exact_against=says[1],
        )

    each = tuple(one(*row) for row in zip(questions, new, true, written, strict=True))
    texts = texts or {}
    return Answers(Probes(tuple(questions), tuple(texts)), each, tuple(texts.values()), "factworld", "0" * 64)
