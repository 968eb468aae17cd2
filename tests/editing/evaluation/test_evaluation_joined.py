"""Evaluations run apart and joined tell the same as one run of everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import handmade_evaluation
import pandas as pd
import pytest
from commands import assert_one_line, done, run

import editing.cli  # noqa: F401 (adds the command)
from editing.evaluation import Evaluation, join
from editing.evaluation.result.schema import COLUMNS
from tracer import TracerError

RECORDS = [{"case_id": "0", "asks": []}, {"case_id": "1", "asks": []}]


def part(whole: Evaluation, *methods: str, **settings: object) -> Evaluation:
    """The rows of these methods and of the unedited model, as a run of them alone has them."""
    kept = ("unedited", *methods)
    tables = {name: getattr(whole, name)[lambda frame: frame["method"].isin(kept)] for name in COLUMNS}
    return Evaluation.of({**whole.settings, "records": RECORDS, **settings}, **tables)


def rows(evaluation: Evaluation, table: str) -> list[str]:
    return sorted(map(str, getattr(evaluation, table).astype(object).itertuples(index=False, name=None)))


@pytest.fixture(scope="module")
def whole() -> Evaluation:
    return handmade_evaluation.evaluation(hostile=False)


def test_parts_make_the_whole(whole: Evaluation) -> None:
    joined = join([part(whole, "rome"), part(whole, "memit")])
    for table in COLUMNS:
        assert rows(joined, table) == rows(whole, table), table
    labels = ["method", "control", "mode", "metric", "stage"]
    one, other = (each.summary().sort_values(labels, ignore_index=True) for each in (joined, whole))
    pd.testing.assert_frame_equal(one, other)


def test_what_one_run_alone_measured_on_the_unedited_model_stays(whole: Evaluation) -> None:
    first, second = part(whole, "rome"), part(whole, "memit")
    without = replace(first, metrics=first.metrics[first.metrics["metric"] != "locality (generated)"])
    joined = join([without, second])
    unedited = joined.metrics[joined.metrics["method"] == "unedited"]
    assert (
        (unedited["metric"] == "locality (generated)").sum()
        == ((whole.metrics["method"] == "unedited") & (whole.metrics["metric"] == "locality (generated)")).sum()
        > 0
    )


def test_of_two_readings_of_the_unedited_model_the_first_counts(whole: Evaluation) -> None:
    first, second = part(whole, "rome"), part(whole, "memit")
    changed = second.metrics.assign(value=second.metrics["value"].where(second.metrics["method"] != "unedited", 0.123))
    joined = join([first, replace(second, metrics=changed)])
    assert rows(joined, "metrics") == rows(whole, "metrics")


def test_settings(whole: Evaluation) -> None:
    filled = [{**each, "essence": []} for each in RECORDS]  # a field that is empty makes no other record
    joined = join([part(whole, "rome", texts=True, canary="a"), part(whole, "memit", canary="a", records=filled)])
    assert joined.settings["texts"] == [True, None]
    assert joined.settings["canary"] == "a"
    assert joined.settings["records"] == RECORDS


def test_one_alone_is_itself(whole: Evaluation) -> None:
    assert join([whole]) is whole


def model(fingerprint: str) -> list[dict[str, str]]:
    return [{"name": "factworld", "fingerprint": fingerprint}]


@pytest.mark.parametrize(
    ("one", "other", "complaint"),
    [
        ({}, {"records": RECORDS[:1]}, "different records"),
        ({"models": model("a")}, {"models": model("b")}, "'factworld' has other weights"),
    ],
)
def test_what_does_not_belong_together(whole: Evaluation, one: dict, other: dict, complaint: str) -> None:
    with pytest.raises(TracerError, match=complaint):
        join([part(whole, "rome", **one), part(whole, "memit", **other)])


def test_the_same_method_twice_and_nothing(whole: Evaluation) -> None:
    with pytest.raises(TracerError, match=r"two evaluations have .*method 'memit'.*leave one of them out"):
        join([part(whole, "rome", "memit"), part(whole, "memit")])
    with pytest.raises(TracerError, match="give at least one"):
        join([])


def test_the_command_reports_several(whole: Evaluation, tmp_path: Path) -> None:
    files = [str(part(whole, each).save(tmp_path / f"{each}.sqlite")) for each in ("rome", "memit")]
    done("report", *files, "--out", str(tmp_path / "table.md"))
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| rome " in text and "| memit " in text
    assert_one_line(run("report", files[0], files[0]), "leave one of them out")
