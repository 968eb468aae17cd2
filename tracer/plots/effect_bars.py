"""Numbers of the bars that `plot_effects` draws: relative changes, their spread, and their scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .labels import headline

if TYPE_CHECKING:
    from tracer.neurons.effects import NeuronEffects

LEAST_CAP = 2.0  # a probability tripled is always drawn to scale


@dataclass
class Bar:
    """One bar. Numbers are relative changes.

    Attributes:
        role: "fact" or "neighbour".
        condition: the set of neurons acted on.
        value: the bar's height.
        low: lower end of its whisker; nan without one.
        high: upper end of its whisker; nan without one.
        dots: single values beside it.
        dot_texts: their hover texts.
        note: a further line of its hover text.
    """

    role: str
    condition: str
    value: float
    low: float = float("nan")
    high: float = float("nan")
    dots: list[float] = field(default_factory=list)
    dot_texts: list[str] = field(default_factory=list)
    note: str = ""

    def ends(self) -> list[float]:
        """All numbers that are drawn."""
        return [v for v in (self.value, self.low, self.high, *self.dots) if np.isfinite(v)]


def bars_of_one(effect: NeuronEffects) -> list[Bar]:
    """The bars of one result; of the neighbours the means."""
    bars = []
    random, other = np.asarray(effect.random_change), effect.other_change
    for role, rows in (("fact", slice(0, 1)), ("neighbour", slice(1, None))):
        prompts = [
            f"{headline(prompt, answer, 60)}<br>before {before:.4f}"
            for prompt, answer, before in zip(
                effect.facts[rows], effect.answers[rows], np.asarray(effect.before)[rows].tolist(), strict=True
            )
        ]
        if not prompts:
            continue
        many = role == "neighbour"
        for condition, values in (("neurons", effect.change), ("random", None), ("other", other)):
            if condition == "random":
                draws = [_mean(column) for column in random[rows].T]
                texts = [f"draw {draw + 1} of {len(draws)}" for draw in range(len(draws))]
                bars.append(Bar(role, "random", _mean(draws), dots=draws, dot_texts=texts))
                bars[-1].note = f"<br>mean over {len(draws)} draws"
            elif values is not None:
                each = np.asarray(values)[rows].tolist()
                bars.append(Bar(role, condition, _mean(each)))
                bars[-1].note = f"<br>mean over {len(each)} neighbours" if many else f"<br>{prompts[0]}"
                if many:
                    bars[-1].dots, bars[-1].dot_texts = each, prompts
    return bars


def bars_of_several(group: Sequence[NeuronEffects]) -> list[Bar]:
    """The bars of several results: means over facts and their intervals."""
    from tracer.neurons.effects import summarise_effects

    bars = []
    for row in summarise_effects(group).to_dict("records"):
        low, high = float(row["change_low"]), float(row["change_high"])
        note = f"<br>mean over {row['prompts']:,} prompts about {row['subjects']:,} subjects"
        if np.isfinite([low, high]).all():
            note += f"<br>95 % interval {percentage(low)} to {percentage(high)}"
        bars.append(Bar(str(row["role"]), str(row["condition"]), float(row["change"]), low, high, note=note))
    return bars


def _mean(values: Sequence[float] | np.ndarray) -> float:
    """The mean of those that are numbers."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    return float(finite.mean()) if finite.size else float("nan")


def percentage(change: float) -> str:
    """A relative change, as in "+12 %", "−3.4 %"; "undefined" where the probability was zero before."""
    if not np.isfinite(change):
        return "undefined"
    size = abs(100 * change)
    digits = 0 if size >= 9.95 else 1 if size >= 0.095 else 2
    sign = "" if size < 0.005 else "−" if change < 0 else "+"
    number = f"{size:,.{digits}f}" if sign else "0"
    return f"{sign}{number} %"


# --- scale ---------------------------------------------------------------------------------------------------------
def cap_of(bars: Sequence[Bar]) -> float:
    """The height at which bars, dots and whiskers are cut off, so that the typical bar can still be seen."""
    sizes = [abs(bar.value) for bar in bars if np.isfinite(bar.value)]
    cap = max(LEAST_CAP, 1.5 * float(np.median(sizes))) if sizes else LEAST_CAP
    highest = max((end for bar in bars for end in bar.ends()), default=0.0)
    return highest if highest <= 1.5 * cap else cap


def label_at(bar: Bar, cap: float) -> float:
    """The height of a bar's number: beyond everything that is drawn at the bar."""
    if not np.isfinite(bar.value):
        return 0.0
    return min(bar.ends()) if bar.value < 0 else min(max(bar.ends()), cap)


def value_range(bars: Sequence[Bar]) -> list[float]:
    """The ends of the vertical axis."""
    cap = cap_of(bars)
    ends = [min(end, cap) for bar in bars for end in bar.ends()]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    pad = 0.12 * (high - low) or 0.05  # room for the numbers
    return [low - pad, high + pad]
