"""Settings of attacks, and what the same budget does in the hands of one who only guesses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tracer.checks import layers, whole
from tracer.errors import HyperparameterError
from tracer.text import plain

BUDGET = 20  # of Patil et al. 2024


@dataclass(frozen=True)
class AttackSettings:
    """Settings of [`editing.attack.attack`][].

    Attributes:
        budget: B, most guesses of each attack.
        layers: blocks that the two attacks from inside read; None: all. (Published: some, chosen on other facts.)
    """

    budget: int = BUDGET
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        whole("budget", self.budget, 1, kind=HyperparameterError)
        if self.layers is not None:
            object.__setattr__(self, "layers", layers(self.layers, kind=HyperparameterError))


def chance(answer: str, pool: Iterable[str], budget: int = BUDGET) -> float:
    """Probability that distinct guesses, drawn from a pool of answers, hold the right one; 0 where the pool does not.

    Args:
        answer: the right one.
        pool: answers to guess from, such as all of the relation; each counts once.
        budget: number of guesses.
    """
    whole("budget", budget, 1, kind=HyperparameterError)
    distinct = {plain(each) for each in pool}
    return min(1.0, budget / len(distinct)) if plain(answer) in distinct else 0.0
