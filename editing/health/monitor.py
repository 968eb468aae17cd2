"""The health of a model under many edits: norms of its weights, and perplexity on unrelated text.

Norms of edited weights grow with the number of edits, and a single edit can disable a model (Gupta, Rao and
Anumanchipalli 2024, arXiv 2401.07453); perplexity on unrelated text shows both (Yang et al. 2024, arXiv 2402.09656).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from editing.edits.weights import parameter
from tracer.errors import EvaluationOptionError

if TYPE_CHECKING:
    from tracer.model import Model

    from .drift import Drift, Drifted

NORM, PERPLEXITY, STEP, KL = "norm growth", "perplexity", "perplexity growth of one edit", "kl drift"


@dataclass(frozen=True)
class Limits:
    """Limits above which an alarm is given; None: never.

    Attributes:
        norm_growth: largest ||W now|| / ||W before|| among edited weights (Frobenius).
        perplexity: on unrelated text, as a multiple of that before all edits.
        edit: the same as a multiple of that before the last edit: an edit that disables the model.
        kl: mean KL(before || now) on unrelated text, nats per token.
    """

    norm_growth: float | None = 2.0
    perplexity: float | None = 2.0
    edit: float | None = 1.5
    kl: float | None = 1.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not value > 0:
                raise EvaluationOptionError(f"the limit {name} is {value!r}; expected a number above zero, or None")


@dataclass(frozen=True)
class Reading:
    """One measure of health.

    Attributes:
        measure: its name.
        value: measured.
        limit: its limit; nan: no limit.
    """

    measure: str
    value: float
    limit: float

    @property
    def alarm(self) -> bool:
        """Whether the limit is passed, or the value is no number."""
        return not math.isnan(self.limit) and not self.value <= self.limit

    def row(self) -> dict[str, Any]:
        """Its columns of the table "health"."""
        return {"measure": self.measure, "value": self.value, "limit": self.limit, "alarm": int(self.alarm)}


class Monitor:
    """A model's health against that before its edits.

    Args:
        model: as it is before the first edit.
        drift: recorded on it; None: only norms are read.
        limits: above which an alarm is given.
    """

    def __init__(self, model: Model, drift: Drift | None, limits: Limits) -> None:
        self.model, self.drift, self.limits = model, drift, limits
        self._norms: dict[str, float] = {}
        self._before = self._first = drift.both(model).perplexity if drift is not None else math.nan

    def watch(self, names: Iterable[str]) -> None:
        """Record the norms of weights that are about to be edited for the first time.

        Args:
            names: of the weights.
        """
        for name in names:
            if name not in self._norms:
                self._norms[name] = norm_of(self.model, name)

    @property
    def state(self) -> dict[str, Any]:
        """State for `resume`; json values."""
        return {"norms": self._norms, "before": self._before}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from the state of another monitor of the same sequence.

        Args:
            state: the other's.
        """
        self._norms, self._before = dict(state["norms"]), float(state["before"])

    def read(self, now: Drifted | None = None) -> list[Reading]:
        """Health after an edit.

        Args:
            now: the drift, if it has been read already.
        """
        limits, growth = self.limits, [norm_of(self.model, name) / norm for name, norm in self._norms.items() if norm]
        found = [Reading(NORM, max(growth, default=1.0), _limit(limits.norm_growth))]
        if self.drift is not None:
            now = now or self.drift.read(self.model)
            found += [
                Reading(PERPLEXITY, now.perplexity, _limit(limits.perplexity, self._first)),
                Reading(STEP, now.perplexity / self._before, _limit(limits.edit)),
                Reading(KL, now.kl, _limit(limits.kl)),
            ]
            self._before = now.perplexity
        return found


def norm_of(model: Model, name: str) -> float:
    """Frobenius norm of a weight, in float64."""
    return float(parameter(model, name).detach().double().norm())


def _limit(value: float | None, unit: float = 1.0) -> float:
    return math.nan if value is None else value * unit
