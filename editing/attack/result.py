"""What attacks found, for any smaller budget too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tracer.checks import whole
from tracer.errors import HyperparameterError, UnsuitableResult
from tracer.html_table import html_of
from tracer.statistics import clustered_mean

if TYPE_CHECKING:
    import pandas as pd

SAMPLING = "sampling"
COLUMNS = ("model", "subject", "prompt", "answer", "attack", "place", "value")


@dataclass(frozen=True, eq=False)
class AttackResult:
    """Guesses that the attacks needed for the old answer of each fact.

    Attributes:
        subjects: of the facts.
        prompts: their texts.
        answers: the old ones, which are looked for.
        needed: by attack [facts], number of guesses up to the right one; infinite: not within the budget; nan: not
            made.
        layers: [facts, layers], the same of one layer alone and without a budget; nan where another model answers.
        sampled: [facts, wordings], probability of the whole answer after the prompt and each other wording; nan where a
            fact has fewer.
        guesses: by attack, the first tokens that were guessed for each fact, as text, in their order.
        budget: most guesses.
        model: its name.
    """

    subjects: tuple[str, ...]
    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    needed: Mapping[str, np.ndarray]
    layers: np.ndarray
    sampled: np.ndarray
    guesses: Mapping[str, tuple[tuple[str, ...], ...]]
    budget: int
    model: str

    @property
    def made(self) -> tuple[str, ...]:
        """The attacks that were made; "rephrasing" needs other wordings."""
        return (*self.needed, SAMPLING)

    def success(self, attack: str, budget: int | None = None) -> np.ndarray:
        """Whether an attack finds each answer, [facts]: 0 or 1; of "sampling" the probability; nan: not made.

        Args:
            attack: its name.
            budget: number of guesses; None: all that were made.

        Raises:
            TracerError: an attack that was not made, a larger budget than was given.
        """
        allowed = self._allowed(budget)
        if attack not in self.made:
            raise UnsuitableResult(f"there is no attack {attack!r} here; expected one of {', '.join(self.made)}")
        if attack == SAMPLING:
            return sampling(self.sampled, allowed)
        needed = self.needed[attack]
        return np.where(np.isnan(needed), np.nan, needed <= allowed)

    def by_layer(self, budget: int | None = None) -> np.ndarray:
        """Whether the most probable tokens of one layer alone hold each answer, [facts, layers].

        Args:
            budget: number of guesses; None: all that were made.

        Raises:
            TracerError: a larger budget than was given.
        """
        return np.where(np.isnan(self.layers), np.nan, self.layers <= self._allowed(budget))

    def interval(self, attack: str, budget: int | None = None) -> tuple[float, float, float]:
        """Share of answers found, with the ends of its 95 % interval over subjects.

        Args:
            attack: as of `success`.
            budget: as of `success`.
        """
        mean, low, high = clustered_mean(self.success(attack, budget), self.subjects)
        return float(mean), float(low), float(high)

    def to_frame(self) -> pd.DataFrame:
        """A row per fact and number: model, subject, prompt, answer, attack, place, value.

        Attack "layer" has a row for each layer (its place), "sampling" one for each wording, whose value is a
        probability.
        """
        import pandas as pd

        columns = {name: values[:, None] for name, values in self.needed.items()}
        columns |= {"layer": self.layers, SAMPLING: self.sampled}
        rows = [
            (self.model, *head, name, place, value)
            for name, values in columns.items()
            for head, line in zip(zip(self.subjects, self.prompts, self.answers, strict=True), values, strict=True)
            for place, value in enumerate(line.tolist())
        ]
        return pd.DataFrame(rows, columns=pd.Index(COLUMNS))

    @classmethod
    def of(cls, frame: pd.DataFrame, budget: int) -> AttackResult:
        """The result that gave a frame, without the guesses themselves.

        Args:
            frame: of `to_frame`.
            budget: with which it was made.

        Raises:
            TracerError: a frame without one of the columns, or of several models.
        """
        if missing := [name for name in COLUMNS if name not in frame.columns]:
            raise UnsuitableResult(f"the frame has no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
        models = list(map(str, frame["model"].unique()))
        if len(models) != 1:
            raise UnsuitableResult(f"the frame has rows of {len(models)} models; give those of one")
        found: dict[str, np.ndarray] = {}
        for name, own in frame.groupby("attack", sort=False):
            counts = own.groupby("place", sort=True)["value"]
            found[str(name)] = np.stack([values.to_numpy(dtype=float) for _, values in counts], 1)
        heads = frame[(frame["attack"] == "layer") & (frame["place"] == 0)]
        subjects, prompts, answers = (tuple(map(str, heads[name])) for name in ("subject", "prompt", "answer"))
        layers, sampled = found.pop("layer"), found.pop(SAMPLING)
        needed = {name: values[:, 0] for name, values in found.items()}
        return cls(subjects, prompts, answers, needed, layers, sampled, {}, budget, models[0])

    def table(self) -> pd.DataFrame:
        """A row per attack: attack, success with the whole budget, low and high end of its interval, facts."""
        import pandas as pd

        rows = []
        for attack in self.made:
            count = int(np.isfinite(self.success(attack)).sum())
            rows.append((attack, *self.interval(attack), count))
        return pd.DataFrame(rows, columns=pd.Index(["attack", f"success@{self.budget}", "low", "high", "facts"]))

    def __str__(self) -> str:
        lines = [f"{len(self.answers)} old answers in {self.model}, {self.budget} guesses each"]
        for attack, mean, low, high, _ in self.table().itertuples(index=False, name=None):
            lines.append(f"  {attack:<17} {mean:.2f} [{low:.2f}, {high:.2f}]")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html_of(f"old answers in {self.model}", self.table())

    def _allowed(self, budget: int | None) -> int:
        if budget is None:
            return self.budget
        expected = f"a whole number from 1 to {self.budget}, the guesses that were made"
        return whole("budget", budget, 1, self.budget, kind=HyperparameterError, expected=expected)


def sampling(probabilities: np.ndarray, budget: int) -> np.ndarray:
    """Probability that texts drawn after each wording in turn begin with the answer, at least one of them, [facts].

    Exact, so that none has to be drawn: 1 - prod (1 - p)^n, with n draws after a wording of probability p.

    Args:
        probabilities: [facts, wordings], nan where a fact has no such wording.
        budget: number of texts.
    """
    counts = (~np.isnan(probabilities)).sum(1, keepdims=True)
    place = np.arange(probabilities.shape[1])[None]
    draws = np.where(place < counts, (budget - place + counts - 1) // np.maximum(counts, 1), 0).clip(0)
    return 1 - np.prod((1 - np.nan_to_num(probabilities)) ** draws, axis=1)
