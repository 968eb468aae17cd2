"""The tables of an evaluation: their columns and types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tracer.errors import EvaluationFileError

from .former_names import COLUMN, current

Frame: TypeAlias = Any
"""A pandas DataFrame or Series. pandas types nearly everything as either, so that its own types do not help a
checker."""
Rows: TypeAlias = "Frame | Sequence[Mapping[str, Any]]"
TEXT, MAYBE, WHOLE, COUNT, NUMBER = "text", "text or None", "whole number", "whole number or none", "number"
LABELS = ("model", "method", "control", "layers", "seed", "mode")
"""Columns that identify a series of measurements. Method "unedited", and control "random layer" or "random direction",
are baselines."""
_LABELS = {name: WHOLE if name == "seed" else TEXT for name in LABELS}
UNEDITED = "unedited"
COLUMNS: dict[str, dict[str, str]] = {
    "metrics": {
        **_LABELS,
        "case_id": TEXT,
        "subject": TEXT,
        "position": WHOLE,
        "after": WHOLE,
        "metric": TEXT,
        "value": NUMBER,
        "n": WHOLE,
    },
    "answers": {
        **_LABELS,
        "case_id": TEXT,
        "after": WHOLE,
        "kind": TEXT,
        "prompt": TEXT,
        "answer": MAYBE,
        "against": MAYBE,
        "nll": NUMBER,
        "nll_against": NUMBER,
        "accuracy": NUMBER,
        "exact": NUMBER,
        "generated": MAYBE,
        "match": NUMBER,
    },
    "routes": {
        **_LABELS,
        "case_id": TEXT,
        "after": WHOLE,
        "kind": TEXT,
        "prompt": TEXT,
        "memory": TEXT,
        "hit": WHOLE,
        "entry": WHOLE,
        "score": NUMBER,
        "threshold": NUMBER,
        "runner_up": WHOLE,
        "runner_up_score": NUMBER,
    },
    "edits": {
        **_LABELS,
        "case_id": TEXT,
        "position": WHOLE,
        "seconds": NUMBER,
        "peak_bytes": COUNT,
        "norm": NUMBER,
        "rank": COUNT,
        "error": TEXT,
    },
    "health": {
        **_LABELS,
        "after": WHOLE,
        "measure": TEXT,
        "value": NUMBER,
        "limit": NUMBER,
        "alarm": WHOLE,
    },
}
"""Tables by name, columns by name with their types. `position`: 0-based place of the case's edit; `after`: number of
edits made when it was measured."""


def typed(table: str, rows: Rows) -> Frame:
    """Rows of a table as a frame with exactly its columns, in order; other columns are left out.

    Texts are Python strings or None, whole numbers int64 (Int64 where one may be unknown), numbers float64.

    Args:
        table: name of the table.
        rows: a frame, or a sequence of rows.

    Raises:
        TracerError: a missing column, or a value that does not fit one.
    """
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), dtype=object)
    columns = COLUMNS[table]
    if table == "answers":
        frame = frame.rename(columns={old: new for old, new in COLUMN.items() if new not in frame.columns})
    if table == "metrics" and "metric" in frame.columns:
        names = {name: current(name) for name in frame["metric"].unique() if isinstance(name, str)}
        if any(old != new for old, new in names.items()):
            frame = frame.assign(metric=[names.get(name, name) for name in frame["metric"]])
    if frame.empty:
        frame = pd.DataFrame({name: [] for name in columns})
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise EvaluationFileError(f"the table {table!r} has no column {missing[0]!r}; expected {', '.join(columns)}")
    return pd.DataFrame({name: _column(table, name, kind, frame[name]) for name, kind in columns.items()})


def _column(table: str, name: str, kind: str, values: Frame) -> Frame:
    import pandas as pd

    values = values.reset_index(drop=True)
    try:
        if kind in (TEXT, MAYBE):
            absent = values.isna()
            if kind == TEXT and absent.any():
                raise ValueError("nothing")
            texts = [None if gone else str(value) for value, gone in zip(values, absent, strict=True)]
            return pd.Series(texts, dtype=object)
        return values.astype({WHOLE: "int64", COUNT: "Int64", NUMBER: "float64"}[kind])
    except (TypeError, ValueError) as error:
        raise EvaluationFileError(f"column {name!r} of the table {table!r} holds {error}; expected a {kind}") from error
