"""Scores of tasks, of one model and of a model before and after edits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import AbilityError, OtherQuestions
from tracer.files import new_file

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Score:
    """One metric of one task.

    Attributes:
        task: name of the task, or of a group of tasks.
        metric: as the task calls it ("acc", "f1", ...), with its filter in brackets where it has one.
        value: in the task's unit: shares from 0 to 1, SQuAD's "exact" and "f1" from 0 to 100.
        stderr: standard error over the questions; None: the task gives none.
        n: questions asked.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True)
class AbilityResult:
    """Scores of [`editing.ability.ability`][].

    Attributes:
        scores: by task, then metric, in the order the tasks were named.
        model: name of the model.
        fingerprint: hash of its weights.
        limit: most questions of a task; None: all.
        fewshot: worked examples before each question; None: as each task says.
        harness: version of lm-evaluation-harness.
    """

    scores: tuple[Score, ...]
    model: str
    fingerprint: str
    limit: int | None
    fewshot: int | None
    harness: str

    def to_frame(self) -> pd.DataFrame:
        """One row per task and metric: task, metric, value, stderr, n."""
        import pandas as pd

        return pd.DataFrame([asdict(score) for score in self.scores], columns=pd.Index(_columns(Score)))

    def score(self, task: str, metric: str) -> Score:
        """The score of one metric of a task.

        Args:
            task: name of the task.
            metric: its name in `scores`.

        Raises:
            TracerError: no such task or metric.
        """
        for score in self.scores:
            if (score.task, score.metric) == (task, metric):
                return score
        has = ", ".join(f"{score.task} {score.metric}" for score in self.scores)
        raise AbilityError(f"there is no {metric!r} of {task!r}; there are {has}")


@dataclass(frozen=True)
class AbilityChange:
    """The same tasks before and after edits.

    Attributes:
        before: scores of the model before.
        after: scores of the model after.

    Raises:
        TracerError: results of different tasks, or with different options.
    """

    before: AbilityResult
    after: AbilityResult

    def __post_init__(self) -> None:
        asked = [
            ([(s.task, s.metric, s.n) for s in result.scores], result.limit, result.fewshot, result.harness)
            for result in (self.before, self.after)
        ]
        if asked[0] != asked[1]:
            raise OtherQuestions(
                "before and after were asked different tasks, or asked differently; measure both with the same tasks, "
                "limit and fewshot"
            )

    def to_frame(self) -> pd.DataFrame:
        """One row per task and metric: task, metric, n, before, after, difference, and both standard errors."""
        import pandas as pd

        rows = [
            (old.task, old.metric, old.n, old.value, new.value, new.value - old.value, old.stderr, new.stderr)
            for old, new in zip(self.before.scores, self.after.scores, strict=True)
        ]
        names = ["task", "metric", "n", "before", "after", "difference", "stderr_before", "stderr_after"]
        return pd.DataFrame(rows, columns=pd.Index(names))


def write(path: Path, result: AbilityResult | AbilityChange, **more: Any) -> None:
    """Write a result and the options it was made with as JSON, whole or not at all.

    Args:
        path: of the file.
        result: to write.
        more: the options.
    """
    with new_file(path) as temporary:
        temporary.write_text(json.dumps({**more, **asdict(result)}, indent=1, ensure_ascii=False), encoding="utf-8")


def _columns(kind: type) -> list[str]:
    return list(kind.__dataclass_fields__)  # type: ignore[attr-defined]
