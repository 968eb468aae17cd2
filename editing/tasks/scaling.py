"""What an edit does at every size: losses of several tasks against the factor it is scaled by.

Ilharco et al. 2023, section 3: one factor for everything that is added, chosen on held-out data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from editing.edits.edit import Edit
from tracer.checks import finite
from tracer.errors import UnsuitableResult
from tracer.progress import track

from .lessons import Row, lessons_of, mean_loss_of_all

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model

FACTORS = tuple(round(0.1 * step, 1) for step in range(11))


@dataclass(frozen=True, eq=False)
class ScaledLosses:
    """Losses of tasks under multiples of an edit.

    Attributes:
        factors: that the edit was scaled by, ascending; 0 is the model without it.
        losses: by name of a task, at each factor the mean of -log p over its tokens, in nats.
        method: of the edit.
        model: its name.
        fingerprint: of its weights.
    """

    factors: tuple[float, ...]
    losses: Mapping[str, np.ndarray]
    method: str
    model: str
    fingerprint: str

    def best(self, task: str, *, keep: Sequence[str] = (), slack: float = 0.1, forget: bool = False) -> float:
        """The factor at which a task's loss is lowest, and at which no loss that is to be kept is more than it was.

        Args:
            task: its name.
            keep: names of tasks that may not suffer.
            slack: nats by which their losses may rise all the same.
            forget: take the highest loss of the task in place of the lowest.

        Raises:
            TracerError: no such task.
        """
        for name in (task, *keep):
            if name not in self.losses:
                raise UnsuitableResult(f"there is no task {name!r} here; expected one of {', '.join(self.losses)}")
        without = self.factors.index(0.0)
        held = [self.losses[name] <= self.losses[name][without] + slack for name in keep]
        allowed = np.logical_and.reduce([np.ones(len(self.factors), dtype=bool), *held])
        loss = np.where(allowed, -self.losses[task] if forget else self.losses[task], math.inf)
        return self.factors[int(loss.argmin())]

    def to_frame(self) -> pd.DataFrame:
        """A row per factor, a column per task."""
        import pandas as pd

        return pd.DataFrame({"factor": self.factors, **self.losses})


def scaled_losses(
    model: Model, edit: Edit, tasks: Mapping[str, Any], factors: Sequence[float] = FACTORS
) -> ScaledLosses:
    """Losses of tasks under an edit times each factor; the model is left as it was.

    Args:
        model: that the edit was computed on.
        edit: any without memories.
        tasks: by name what [`editing.finetune`][] takes: texts, or requests whose targets are asked.
        factors: to scale by; 0, the model without the edit, is measured anyway.

    Raises:
        TracerError: no tasks, an empty one, a factor that is not finite, an edit of other weights or of a memory.
    """
    edit.check(model)
    if not tasks:
        raise UnsuitableResult("there is no task to measure; give at least one, such as {'target': requests}")
    for factor in factors:
        finite("factors", factor, kind=UnsuitableResult, expected="finite numbers")
    rows: dict[str, list[Row]] = {name: lessons_of(model, items)[0] for name, items in tasks.items()}
    every = sorted({0.0, *map(float, factors)})
    found: dict[str, list[float]] = {name: [] for name in rows}
    for factor in track(every, "factors", len(every)):
        with edit.scale(factor).applied(model):
            for name, own in rows.items():
                found[name].append(mean_loss_of_all(model, own))
    losses = {name: np.array(each) for name, each in found.items()}
    return ScaledLosses(tuple(every), losses, edit.method, model.name, edit.fingerprint)
