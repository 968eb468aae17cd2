"""Answers of a model to questions, as a table of numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tracer.errors import QuestionError

from .answer import NAN, Answer
from .probes import Probes
from .question_metrics import QUESTION_METRICS


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of a model to Q questions. Made by [`editing.measure`][]; missing measurements are nan, never zero.

    The properties are arrays [Q], read-only.

    Attributes:
        probes: the questions.
        each: the answers to them, in their order.
        texts: continuations of `probes.generate`, without the prompts.
        model: the model's name.
        fingerprint: hash of its weights; "": not taken.
    """

    probes: Probes
    each: tuple[Answer, ...]
    texts: tuple[str, ...] = ()
    model: str = ""
    fingerprint: str = ""

    def __post_init__(self) -> None:
        count = len(self.probes.questions)
        if len(self.each) != count or len(self.texts) != len(self.probes.generate):
            raise QuestionError(
                f"there are {len(self.each)} answers to {count} questions, and {len(self.texts)} texts for "
                f"{len(self.probes.generate)} prompts; give one each"
            )

    @cached_property
    def new(self) -> np.ndarray:
        """Probability of the whole new target after the prompt: the product over its tokens."""
        return self._by_target("log_prob", new=True, of=np.exp)

    @cached_property
    def true(self) -> np.ndarray:
        """The same of the true answer; nan where it is not known."""
        return self._by_target("log_prob", new=False, of=np.exp)

    @cached_property
    def new_mean(self) -> np.ndarray:
        """Log-probability of the new target per token, which the published scores compare."""
        return self._by_target("nll", new=True, of=np.negative)

    @cached_property
    def true_mean(self) -> np.ndarray:
        """The same of the true answer."""
        return self._by_target("nll", new=False, of=np.negative)

    @cached_property
    def says_new(self) -> np.ndarray:
        """1 where greedy decoding writes the new target, else 0."""
        return self._by_target("exact", new=True)

    @cached_property
    def says_true(self) -> np.ndarray:
        """The same of the true answer; nan where it is not known."""
        return self._by_target("exact", new=False)

    @property
    def answers(self) -> tuple[str, ...]:
        """Greedy decoding after each question: one of the targets, or about as many tokens as they have."""
        return tuple(str(one.generated) for one in self.each)

    @cached_property
    def as_meant(self) -> np.ndarray:
        """Success of each question: 1 where the target that an edit should leave on top is preferred, else 0.

        Of a rewrite and a paraphrase it is the new target, of others the true one (CounterFact's ES, PS and NS: the
        metric "success"). Where the true answer is not known, whether greedy decoding writes the new one ("exact"); nan
        for questions that are to keep it.
        """
        success = self.metric("success")
        return _fixed(np.where(np.isnan(success) & np.isnan(self.true_mean), self.metric("exact"), success))

    @cached_property
    def as_meant_greedy(self) -> np.ndarray:
        """The same, by whether greedy decoding writes that target."""
        return self.metric("exact")

    def metric(self, name: str) -> np.ndarray:
        """A metric of each question.

        Args:
            name: one of `editing.questions.question_metrics.QUESTION_METRICS`.
        """
        function = QUESTION_METRICS[name].function
        return _fixed([function(one, None) for one in self.each])

    def _by_target(self, name: str, *, new: bool, of: Callable[[np.ndarray], np.ndarray] | None = None) -> np.ndarray:
        """A number of the new or the true answer, which of them is the wanted one and which the other."""
        names = ["" if one.wants_new == new else "_against" for one in self.probes.questions]
        values = np.array([getattr(one, name + end) for one, end in zip(self.each, names, strict=True)], dtype=float)
        return _fixed(values if of is None else of(values))


def mean(values: np.ndarray) -> float:
    """The mean of the values that are not nan."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else NAN


def _fixed(values: object) -> np.ndarray:
    array = np.array(values, dtype=float)
    array.flags.writeable = False
    return array
