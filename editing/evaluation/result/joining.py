"""Several evaluations of the same records as one, so that methods run apart stand in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tracer.errors import JoinError

from .evaluation import Evaluation
from .schema import COLUMNS, LABELS, NUMBER, UNEDITED, Frame

MEASURED = ("n", "accuracy", "exact", "generated", "match", "rank", "peak_bytes", "error")
"""Columns of measurements, beside those of numbers: two rows that differ in these only are of the same question."""


def join(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation with the rows of all; of several measurements of an unedited model, the first counts.

    Settings in which all agree stay as they are; others become a list of each one's. A record's fields that are empty
    do not count as a difference.

    Args:
        evaluations: of the same records.

    Raises:
        TracerError: nothing to join; other records; one name for models of different weights; the same method, mode,
            layers, seed and control in two of them.
    """
    if not evaluations:
        raise JoinError("there is no evaluation to join; give at least one")
    first = evaluations[0]
    if len(evaluations) == 1:
        return first
    for other in evaluations[1:]:
        if _records(first) != _records(other):
            raise JoinError("the evaluations are of different records; join runs over the same ones, in one order")
        for name, its in _models(other).items():
            if its != _models(first).get(name, its):
                raise JoinError(f"the model {name!r} has other weights in another evaluation; name it otherwise")
    _apart(evaluations)
    tables = {name: _together([getattr(each, name) for each in evaluations]) for name in COLUMNS}
    return Evaluation.of(_settings([each.settings for each in evaluations]), **tables)


def _records(evaluation: Evaluation) -> Any:
    """Records of the run, without empty fields; a saved evaluation may lack them."""
    found = evaluation.settings.get("records")
    if not isinstance(found, list):
        return found
    return [{k: v for k, v in each.items() if v} if isinstance(each, Mapping) else each for each in found]


def _models(evaluation: Evaluation) -> dict[str, str]:
    """Fingerprints by name, where the settings have them."""
    found = [each for each in evaluation.settings.get("models") or () if isinstance(each, Mapping)]
    return {str(each.get("name")): str(each.get("fingerprint")) for each in found}


def _apart(evaluations: Sequence[Evaluation]) -> None:
    """Raise TracerError unless every series of measurements comes from one evaluation only."""
    seen: set[tuple[Any, ...]] = set()
    for each in evaluations:
        own = {
            row
            for name in ("metrics", "edits")
            for row in getattr(each, name)[list(LABELS)].itertuples(index=False, name=None)
            if row[LABELS.index("method")] != UNEDITED
        }
        twice = sorted(seen & own)
        if twice:
            named = ", ".join(f"{label} {value!r}" for label, value in zip(LABELS, twice[0], strict=True) if value)
            raise JoinError(f"two evaluations have {named}; leave one of them out")
        seen |= own


def _together(frames: Sequence[Frame]) -> Frame:
    """All rows, those of unedited models once."""
    import pandas as pd

    filled = [frame for frame in frames if len(frame)]
    if not filled:
        return frames[0]
    whole = pd.concat(filled, ignore_index=True)
    table = next(columns for columns in COLUMNS.values() if list(columns) == list(whole.columns))
    about = [name for name, kind in table.items() if kind != NUMBER and name not in MEASURED]
    source = pd.Series([place for place, frame in enumerate(filled) for _ in range(len(frame))], index=whole.index)
    unedited: Frame = whole.assign(source=source)[whole["method"] == UNEDITED]
    if not len(unedited):
        return whole
    # by run, not by row: a question that stands twice in one record is one run's own
    first = unedited.groupby(about, dropna=False)["source"].transform("min")
    return whole.drop(unedited.index[unedited["source"] > first]).reset_index(drop=True)


def _settings(several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    keys = dict.fromkeys(key for each in several for key in each)
    found = {key: [each.get(key) for each in several] for key in keys}
    merged = {
        key: values[0] if all(value == values[0] for value in values) else values for key, values in found.items()
    }
    if "records" in merged:  # seen to be the same
        merged["records"] = several[0].get("records")
    if "left_out" in merged:  # by model, whichever runs it was in
        parts = [each.get("left_out", {}) for each in several]
        merged["left_out"] = {model: words for part in parts for model, words in part.items()}
    return merged
