"""What the tests of protocols share: records, quick settings, and the values of a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from editing.datasets import EditRecord, Question, Rewrite
from tracer import Model

Tiny = Callable[[str], Model]
HPARAMS: dict[str, Any] = {"v_steps": 3, "mom2_adjustment": False, "context_templates": ["{}"], "v_lr": 0.5}
HPARAMS |= {"clamp": 0.7, "v_weight_decay": 0.1}
QUICK: dict[str, Any] = {"texts": False, "canary_tokens": 0, "controls": (), "chunk": 2}
PLACES = [
    ("The Space Needle", "Seattle"),
    ("The Eiffel Tower", "Paris"),
    ("Miles Davis", "Sweden"),
    ("Dvořák", "Spain"),
]
MEASURED = ["seconds", "peak bytes"]  # differ from run to run


def record(place: int, **more: Any) -> EditRecord:
    subject, true = PLACES[place]
    asks = (
        Question(kind="paraphrase", prompt=f"You can see {subject} in", answers=((" Rome",),), against=f" {true}"),
        Question(kind="neighbour", prompt="Yo-Yo Ma is in", answers=((f" {true}",),), against=" Rome"),
        Question(kind="same_subject", prompt=f"{subject} is the"),
    )
    rewrite = Rewrite(prompt="{} is in downtown", subject=subject, target_new="Rome", target_true=true)
    return EditRecord(case_id=f"case {place}", source="test", rewrites=(rewrite,), asks=asks, **more)


RECORDS = [record(place) for place in range(4)]


def values(frame: pd.DataFrame, **where: Any) -> dict[tuple, float]:
    """Values by case and metric of the rows that have these labels."""
    wanted = ~frame["metric"].isin(MEASURED)
    for name, value in where.items():
        wanted &= frame[name] == value
    rows = frame.loc[wanted]
    assert not rows.duplicated(["case_id", "after", "metric"]).any()
    return dict(zip(zip(rows["case_id"], rows["metric"], strict=True), rows["value"], strict=True))


def assert_close(found: dict[tuple, float], expected: dict[tuple, float]) -> None:
    assert {**expected}.keys() <= found.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-5, nan_ok=True), key
