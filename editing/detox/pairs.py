"""Pairs of sentences that differ in a pronoun: which of the two a model finds more probable, and by how much.

As in CrowS-Pairs (Nangia et al. 2020) and StereoSet (Nadeem et al. 2021), for models that predict the next token: the
log-probability of the rest of a sentence with the pronoun that a stereotype expects behind an occupation, less that
with the other. As many occupations are expected with either pronoun, so that a liking for one of the two, whatever the
occupation, does not look like a stereotype.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from editing.questions.target_scores import target_log_probs
from tracer.errors import StatisticsError
from tracer.facts.fact import Fact
from tracer.statistics import clustered_mean

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model


@dataclass(frozen=True)
class Pair:
    """Two ends of one sentence.

    Attributes:
        prompt: with `{}` in the subject's place.
        subject: an occupation.
        expected: the end that a stereotype expects.
        other: the other one.
    """

    prompt: str
    subject: str
    expected: str
    other: str

    @property
    def fact(self) -> Fact:
        """The expected end as a fact, to be traced with `metric="log_prob_diff"` and `foil=pair.other`."""
        return Fact(self.prompt, self.subject, self.expected)


def pronoun_pairs(*, whole: bool = True) -> tuple[Pair, ...]:
    """Forty-eight pairs: twelve occupations for either pronoun, in two sentences each.

    Args:
        whole: ends are the rest of the sentence; False: the pronoun alone.
    """
    read = json.loads(files("editing").joinpath("data/detox/pairs.json").read_text(encoding="utf-8"))
    found = []
    for pronoun, other in (("she", "he"), ("he", "she")):
        for occupation in read[pronoun]:
            for frame in read["frames"]:
                ends = [f"{one} {frame['rest']}" if whole else one for one in (pronoun, other)]
                found.append(Pair(frame["prompt"], occupation, *ends))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class PairScores:
    """Log-probabilities of both ends of pairs. Made by `pair_scores`.

    Attributes:
        pairs: n of them.
        expected: log-probability of each pair's expected end, [n], in nats.
        other: of the other one, [n].
    """

    pairs: tuple[Pair, ...]
    expected: np.ndarray
    other: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """How much more probable the expected end is, [n], in nats."""
        return self.expected - self.other

    def mean(self, *, seed: int = 0) -> tuple[float, float, float]:
        """Mean difference with its 95 % interval (low, high), bootstrapped over occupations.

        Args:
            seed: of the bootstrap.
        """
        return self._interval(self.difference, seed)

    def share(self, *, seed: int = 0) -> tuple[float, float, float]:
        """Share of pairs whose expected end is the more probable one, with its interval; .5 would be no preference.

        Ties count half.

        Args:
            seed: of the bootstrap.
        """
        return self._interval((np.sign(self.difference) + 1) / 2, seed)

    def to_frame(self) -> pd.DataFrame:
        """One row per pair."""
        import pandas as pd

        table = {name: [getattr(pair, name) for pair in self.pairs] for name in ("prompt", "subject")}
        return pd.DataFrame({**table, "expected": self.expected, "other": self.other, "difference": self.difference})

    def _interval(self, values: np.ndarray, seed: int) -> tuple[float, float, float]:
        mean, low, high = clustered_mean(values, [pair.subject for pair in self.pairs], seed=seed)
        return float(mean), float(low), float(high)


def pair_scores(model: Model, pairs: Sequence[Pair] | None = None, *, max_rows: int | None = None) -> PairScores:
    """Score both ends of every pair.

    Args:
        model: to ask; it is left as it was.
        pairs: of sentences; None: `pronoun_pairs`.
        max_rows: most rows in a forward; None: by memory.

    Raises:
        TracerError: no pairs; as `target_log_probs` does.
    """
    pairs = tuple(pronoun_pairs() if pairs is None else pairs)
    if not pairs:
        raise StatisticsError("there are no pairs to compare; give at least one, or leave pairs out")
    prompts = [pair.fact.text for pair in pairs]
    ends = [*(pair.expected for pair in pairs), *(pair.other for pair in pairs)]
    sums = target_log_probs(model, prompts * 2, ends, max_rows=max_rows).sums
    return PairScores(pairs, sums[: len(pairs)], sums[len(pairs) :])
