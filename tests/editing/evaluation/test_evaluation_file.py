"""The tables of an evaluation, and the file they are kept in: everything comes back, and nothing else is taken."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from handmade_evaluation import CASES, HOSTILE, evaluation, labels, row

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.schema import COLUMNS
from tracer import TracerError
from tracer.plots.export import export

ROME = labels("rome")


# --- tables ----------------------------------------------------------------------------------------------------------
def test_columns_and_what_they_hold() -> None:
    made = evaluation()
    for name, columns in COLUMNS.items():
        assert list(getattr(made, name)) == list(columns)
    assert made.answers["answer"].isna().any()
    assert [value for value in made.answers["answer"] if not isinstance(value, str)] == [None] * (5 * CASES)
    assert str(made.edits["rank"].dtype) == "Int64"
    more = Evaluation.of(metrics=[{**row(ROME, 0, "fluency", 1), "job_job": 3}])
    assert list(more.frame) == list(COLUMNS["metrics"])
    assert more.to_frame() is more.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": "high"}, "column 'value' of the table 'metrics' holds .* expected a number"),
        ({"after": None}, "column 'after' .* expected a whole number"),
        ({"subject": None}, "column 'subject' of the table 'metrics' holds nothing; expected a text"),
    ],
)
def test_what_does_not_fit_a_column(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TracerError, match=message):
        Evaluation.of(metrics=[row(ROME, 0, "fluency", 1.0) | change])
    with pytest.raises(TracerError, match="no column 'model'; expected model, method"):
        Evaluation.of(metrics=[{"method": "rome"}])
    with pytest.raises(TracerError, match="no table 'times'"):
        Evaluation.of(times=[])


# --- files -----------------------------------------------------------------------------------------------------------
def same(a: Evaluation, b: Evaluation) -> None:
    for name in COLUMNS:
        pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name), check_exact=True)
    assert a.settings == b.settings


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    made = evaluation(note=[*HOSTILE, None, 1.5])
    made.metrics.loc[0, "value"] = np.inf
    made.metrics.loc[1, "value"] = 0.1 + 0.2
    path = made.save(tmp_path / "new" / "run 1?#%.sqlite")
    same(Evaluation.load(path), made)
    empty = Evaluation.of()
    same(Evaluation.load(empty.save(path)), empty)  # replaced
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_run_that_is_not_finished_is_read_in_the_order_of_its_jobs(tmp_path: Path) -> None:
    runs = pytest.importorskip("tracer.runs")
    path = tmp_path / "run.sqlite"
    tables = {name: tuple(columns) for name, columns in COLUMNS.items()}
    jobs = [runs.Job(name, {}, ("0", "1")) for name in ("first", "second")]
    with runs.Store.create(path, jobs, {"seed": 3}, tables) as store:
        one, two = store.claim("a"), store.claim("b")
        for claim, case in ((two, 1), (one, 0)):
            claim.commit("0", {"metrics": [row(ROME, case, "fluency", float("nan") if case else 2.5)]})
        found = Evaluation.load(path)  # while others write
    assert found.metrics["case_id"].tolist() == ["0", "1"]
    np.testing.assert_array_equal(found.metrics["value"], [2.5, np.nan])
    assert found.settings == {"seed": 3}
    assert found.edits.empty


def test_what_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    text, other, broken = tmp_path / "x.txt", tmp_path / "x.sqlite", tmp_path / "broken.sqlite"
    text.write_text("metrics")
    with closing(sqlite3.connect(other)) as base:
        base.execute("CREATE TABLE other (a)")
    whole = evaluation().save(broken).read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    for path, message in (
        (tmp_path / "missing.sqlite", "cannot read .*missing.sqlite .No such file"),
        (tmp_path, "cannot read"),
        (text, "is no SQLite file"),
        (other, "no table 'metrics'"),
        (broken, "cannot read .*malformed"),
    ):
        with pytest.raises(TracerError, match=message):
            Evaluation.load(path)
    with pytest.raises(TracerError, match="not as npz; name it x"):
        evaluation().save(tmp_path / "x.npz")


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_text("old")
    broken = Evaluation.of(metrics=[row(ROME, 0, "half a pair \ud800", 1.0)])
    with pytest.raises(TracerError, match="cannot write"):
        broken.save(path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["x.sqlite"]


def test_export(tmp_path: Path) -> None:
    made = evaluation(hostile=False)
    table = pd.read_csv(export(made, tmp_path / "x.csv"), keep_default_na=False, dtype={"case_id": str, "layers": str})
    pd.testing.assert_frame_equal(table, made.metrics, check_dtype=False)
    with pytest.raises(TracerError, match="not as npz"):
        export(made, tmp_path / "x.npz")
    assert [each.name for each in tmp_path.iterdir()] == ["x.csv"]


def test_plain_is_what_json_knows() -> None:
    plain = evaluation().to_plain()
    assert list(plain) == [*COLUMNS, "settings"]
    assert plain["answers"][4]["nll"] is None
    assert plain["metrics"][0]["value"] == 0.0
