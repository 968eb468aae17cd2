"""Answers of a model as they are read: one question's, one record's."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

NAN = float("nan")


@dataclass(frozen=True)
class Routed:
    """How a memory of the model decided about a question.

    Attributes:
        memory: its name.
        hit: whether an entry acted.
        entry: the nearest one; -1: there is none.
        score: how near the prompt came to it, in the measure of the memory's kind.
        threshold: the score at which it acts or not.
        runner_up: the next nearest entry; -1: there is none.
        runner_up_score: its score.
    """

    memory: str
    hit: bool
    entry: int
    score: float
    threshold: float
    runner_up: int
    runner_up_score: float

    def __str__(self) -> str:
        if self.entry < 0:
            return f"{self.memory}: {'acts' if self.hit else 'no entry'}"
        measured = "" if self.score != self.score else f" at {self.score:.3g}"
        bound = "" if self.threshold != self.threshold else f" (threshold {self.threshold:.3g})"
        second = "" if self.runner_up < 0 else f", next entry {self.runner_up} at {self.runner_up_score:.3g}"
        return f"{self.memory}: {'' if self.hit else 'no hit, nearest '}entry {self.entry}{measured}{bound}{second}"


@dataclass(frozen=True)
class Answer:
    """Answer to one question, asked once; missing measurements are nan or None, never zero.

    Attributes:
        kind: one of `question.KINDS`, or "negation": the rewrite's prompt denied (`negation`).
        prompt: the whole text.
        answer: the usual wording of the wanted answer; None: not known yet.
        against: the answer it is compared with; None: not known.
        either: questions of a case with the same number are wordings of one.
        nll: -(1/k) sum log p of the answer's k tokens after the prompt, teacher forced (natural logarithm).
        nll_against: the same of `against`.
        accuracy: share of the answer's tokens that are the most probable at their places, teacher forced.
        exact: 1 where all of them are, else 0.
        greedy: the most probable ids at the answer's places; without an answer, those of the model's own.
        generated: greedy generation after the prompt, to the end of the sentence or some tokens further than the
            longest accepted wording; None: not generated.
        match: 1 where that names everything that should be named, else 0 (`match.says`).
        log_prob: log-probability of the whole answer, the sum over its tokens.
        log_prob_against: the same of `against`.
        exact_against: 1 where all tokens of `against` are the most probable at their places, else 0.
        routes: one for each memory of the model.
    """

    kind: str
    prompt: str
    answer: str | None
    against: str | None
    either: int | None
    nll: float
    nll_against: float
    accuracy: float
    exact: float
    greedy: tuple[int, ...]
    generated: str | None
    match: float
    log_prob: float = NAN
    log_prob_against: float = NAN
    exact_against: float = NAN
    routes: tuple[Routed, ...] = ()

    @property
    def said(self) -> float:
        """The former name of `match`."""
        warnings.warn("said of an answer is called match now; use that name", DeprecationWarning, stacklevel=2)
        return self.match


@dataclass(frozen=True)
class CaseAnswers:
    """Answers of a model to one record.

    Attributes:
        case_id: the record's.
        answers: to `record.questions()` in their order, then to the denied rewrites.
        texts: continuations of `record.generate`, each with its prompt, as published.
    """

    case_id: str
    answers: tuple[Answer, ...]
    texts: tuple[str, ...]
