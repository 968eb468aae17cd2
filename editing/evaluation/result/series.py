"""Series of measurements, by the shortest names that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from .schema import LABELS, UNEDITED, Frame


@dataclass(frozen=True)
class Series:
    """One method as it was used, or a control, at one stage.

    Attributes:
        key: values of `LABELS`.
        stage: "unedited", "edited" or "end".
        name: method, control, and whatever else is needed to tell it from the others.
    """

    key: tuple[Any, ...]
    stage: str
    name: str

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.key[LABELS.index("method")]

    @property
    def control(self) -> str:
        """Name of the control, or ""."""
        return self.key[LABELS.index("control")]

    @property
    def compared(self) -> bool:
        """Whether it is a baseline: the unedited model, or a control."""
        return self.method == UNEDITED or bool(self.control)


def divided(frame: Frame, series: Sequence[Series]) -> list[Frame]:
    """The rows of each series in a table with the columns `LABELS` (and of its stage, where the table has one)."""
    staged = "stage" in frame.columns
    groups = dict(iter(frame.groupby([*LABELS, *(["stage"] if staged else [])], sort=False)))
    nothing = frame.iloc[:0]
    return [groups.get((*each.key, each.stage) if staged else each.key, nothing) for each in series]


def series_of(frame: Frame) -> list[Series]:
    """The series of a table in order of appearance, the unedited model first, controls behind their methods.

    Args:
        frame: has the columns `LABELS` (and perhaps `stage` and `after`).
    """
    columns = [*LABELS, *(["stage"] if "stage" in frame.columns else [])]
    found = frame[columns].drop_duplicates()
    varying = {
        "model": found["model"].nunique() > 1,
        "mode": found.loc[found["method"] != UNEDITED, "mode"].nunique() > 1,
    }
    alike = found.drop_duplicates(list(LABELS)).groupby(["model", "method", "control", "mode"])
    many = {label: alike[label].nunique().gt(1).to_dict() for label in ("layers", "seed")}
    made = []
    for row in found.to_dict("records"):
        key = tuple(row[label] for label in LABELS)
        stage = str(row.get("stage", ""))
        parts = [row["method"], row["control"]]
        parts += [PurePath(row["model"]).name] * varying["model"]
        parts += [row["mode"]] * (varying["mode"] and row["method"] != UNEDITED)
        group = (row["model"], row["method"], row["control"], row["mode"])
        parts += [f"layers {row['layers'] or '-'}"] * many["layers"][group]
        parts += [f"seed {row['seed']}"] * many["seed"][group]
        made.append(Series(key, stage, " · ".join(filter(None, parts))))
    if "after" in frame.columns:
        own = divided(frame, made)
        made = [_at_the_end(each, rows) if each.stage == "end" else each for each, rows in zip(made, own, strict=True)]
    first = {name: place for place, name in reversed(list(enumerate(each.method for each in made)))}
    return sorted(made, key=lambda each: (each.method != UNEDITED, first[each.method], bool(each.control)))


def _at_the_end(series: Series, rows: Frame) -> Series:
    return Series(series.key, series.stage, f"{series.name} · after {rows['after'].max()} edits")
