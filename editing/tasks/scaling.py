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
from editing.request import EditRequest
from tracer.checks import finite
from tracer.engine.batch import Row
from tracer.errors import UnsuitableResult
from tracer.progress import track
from tracer.statistics import clustered_mean

from .lessons import lessons_of, losses_of

if TYPE_CHECKING:
    import pandas as pd

    from tracer.model import Model

COLUMNS = ("model", "method", "task", "factor", "subject", "loss")
FACTORS = tuple(round(0.1 * step, 1) for step in range(11))


@dataclass(frozen=True, eq=False)
class ScaledLosses:
    """Losses of tasks under multiples of an edit.

    Attributes:
        factors: that the edit was scaled by, ascending; 0 is the model without it.
        items: by name of a task [factors, n], the mean of -log p over the tokens of each of its texts or targets, nats.
        subjects: by name of a task, what each of its items is about; items about one subject count as one in intervals.
        method: of the edit.
        model: its name.
        fingerprint: of its weights.
    """

    factors: tuple[float, ...]
    items: Mapping[str, np.ndarray]
    subjects: Mapping[str, tuple[str, ...]]
    method: str
    model: str
    fingerprint: str

    @property
    def losses(self) -> dict[str, np.ndarray]:
        """By name of a task [factors], the mean over its items."""
        return {name: each.mean(1) for name, each in self.items.items()}

    def intervals(self, task: str) -> np.ndarray:
        """Mean, low and high end of its 95 % interval over subjects, of a task at each factor: [factors, 3].

        Args:
            task: its name.
        """
        return np.array([clustered_mean(row, self.subjects[task]) for row in self.items[task]])

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
            if name not in self.items:
                raise UnsuitableResult(f"there is no task {name!r} here; expected one of {', '.join(self.items)}")
        without, losses = self.factors.index(0.0), self.losses
        held = [losses[name] <= losses[name][without] + slack for name in keep]
        allowed = np.logical_and.reduce([np.ones(len(self.factors), dtype=bool), *held])
        loss = np.where(allowed, -losses[task] if forget else losses[task], math.inf)
        return self.factors[int(loss.argmin())]

    def to_frame(self) -> pd.DataFrame:
        """A row per item and factor: model, method, task, factor, subject, loss."""
        import pandas as pd

        rows = [
            (self.model, self.method, task, factor, subject, loss)
            for task, items in self.items.items()
            for factor, losses in zip(self.factors, items.tolist(), strict=True)
            for subject, loss in zip(self.subjects[task], losses, strict=True)
        ]
        return pd.DataFrame(rows, columns=pd.Index(COLUMNS))

    @classmethod
    def of(cls, frame: pd.DataFrame, fingerprint: str = "") -> ScaledLosses:
        """The result that gave a frame.

        Args:
            frame: of `to_frame`, of one model and method.
            fingerprint: of the model's weights, which the frame does not have.

        Raises:
            TracerError: a frame of several models or methods, or without one of the columns.
        """
        if missing := [name for name in COLUMNS if name not in frame.columns]:
            raise UnsuitableResult(f"the frame has no column {missing[0]!r}; expected {', '.join(COLUMNS)}")
        if len(heads := frame[["model", "method"]].drop_duplicates()) != 1:
            raise UnsuitableResult(f"the frame has rows of {len(heads)} models and methods; give those of one")
        items, subjects = {}, {}
        for task, own in frame.groupby("task", sort=False):
            found = [rows for _, rows in own.groupby("factor")]
            items[str(task)] = np.stack([rows["loss"].to_numpy(dtype=float) for rows in found])
            subjects[str(task)] = tuple(found[0]["subject"])
        factors = tuple(sorted(map(float, frame["factor"].unique())))
        (model,), (method,) = (frame[name].unique() for name in ("model", "method"))
        return cls(factors, items, subjects, str(method), str(model), fingerprint)


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
    given = {name: lessons_of(model, items) for name, items in tasks.items()}
    every = sorted({0.0, *map(float, factors)})
    found: dict[str, list[np.ndarray]] = {name: [] for name in given}
    for factor in track(every, "factors", len(every)):
        with edit.scale(factor).applied(model):
            for name, (rows, _) in given.items():
                found[name].append(losses_of(model, rows).numpy())
    items = {name: np.stack(each) for name, each in found.items()}
    subjects = {name: _subjects(*each) for name, each in given.items()}
    return ScaledLosses(tuple(every), items, subjects, edit.method, model.name, edit.fingerprint)


def _subjects(rows: Sequence[Row], requests: Sequence[EditRequest]) -> tuple[str, ...]:
    """The subject of each row; of texts, which come without one, their place."""
    if len(requests) == len(rows):
        return tuple(request.subject for request in requests)
    return tuple(map(str, range(len(rows))))
