"""Runs of an evaluation: cut off and gone on with, by several workers; what cannot be asked or edited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from evaluation_runs import HPARAMS, MEASURED, QUICK, RECORDS, Tiny, assert_close, values
from handmade import handmade, own

import tracer
from editing.datasets import Question
from editing.evaluation.run import worker as bench_module
from editing.evaluation.run.blobs import answers_from_bytes, answers_to_bytes, edit_from_bytes, edit_to_bytes
from editing.evaluation.run.protocol import Protocol
from editing.evaluation.run.start import begin, carry_on, cells_of, evaluate
from editing.questions.asking_records import ask_records
from tracer import Model, TracerError
from tracer.runs import Store


@pytest.mark.parametrize(
    ("mode", "at"),
    [
        (mode, at)
        for mode, some in {"single": (1, 3, 5), "batch": (2, 4), "sequential": (1, 4, 7)}.items()
        for at in some
    ],
)
def test_a_run_that_was_cut_off_goes_on(
    model: Model, mode: Any, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off before the n-th time that something is asked; the tables are those of a run in one go."""
    options = {"layers": [1], "moments": 2, "retention": 6, **QUICK, **HPARAMS, "canary_tokens": 16}
    method = "rome"
    whole = evaluate(model, RECORDS, method, mode, **options)
    count, real = [0], bench_module.ask_records

    def counting(*given: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise KeyboardInterrupt
        return real(*given, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bench_module, "ask_records", counting)
        evaluate(model, RECORDS, method, mode, path=tmp_path / "run", **options)
    again = evaluate(model, RECORDS, method, mode, path=tmp_path / "run", **options)
    for table in ("metrics", "answers", "health"):
        one, two = (getattr(each, table) for each in (whole, again))
        if table == "metrics":
            one, two = (each[~each["metric"].isin(MEASURED)].reset_index(drop=True) for each in (one, two))
        pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(*(each.edits.drop(columns=["seconds", "peak_bytes"]) for each in (whole, again)))


def test_alphaedit_protects_earlier_edits_also_after_a_cut(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {name: value for name, value in HPARAMS.items() if name != "mom2_adjustment"}
    options = {"layers": [1, 2], "nullspace_share": 0.5, **QUICK, **settings}
    whole = evaluate(model, RECORDS, "alphaedit", "sequential", **options)
    real, earlier = bench_module.compute_edits, []

    def watching(*given: Any, **more: Any) -> Any:
        earlier.append(len(more["context"].earlier))
        if earlier == [0, 1, 2]:
            raise KeyboardInterrupt
        return real(*given, **more)

    monkeypatch.setattr(bench_module, "compute_edits", watching)
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, RECORDS, "alphaedit", "sequential", path=tmp_path / "run", **options)
    again = evaluate(model, RECORDS, "alphaedit", "sequential", path=tmp_path / "run", **options)
    assert earlier == [0, 1, 2, 2, 3]
    assert values(again.frame, method="alphaedit") == values(whole.frame, method="alphaedit")


def test_an_edit_that_cannot_be_made_is_a_row_with_its_reason(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_module.compute_edits

    def refusing(model: Model, groups: Any, *given: Any, **more: Any) -> Any:
        if any(request.subject == "Miles Davis" for group in groups for request in group):
            raise TracerError("nobody moves Miles Davis")
        return real(model, groups, *given, **more)

    monkeypatch.setattr(bench_module, "compute_edits", refusing)
    for mode in ("single", "sequential"):
        result = evaluate(model, RECORDS, "rome", mode, layers=[1], **QUICK, **HPARAMS)  # type: ignore[arg-type]
        errors = result.edits.set_index("case_id")["error"]
        assert errors["case 2"] == "nobody moves Miles Davis" and errors.drop("case 2").eq("").all()
        edited = result.frame[result.frame["method"] == "rome"]
        assert set(edited["case_id"]) == {"case 0", "case 1", "case 3"}
    batch = evaluate(model, RECORDS, "rome", "batch", layers=[1], **QUICK, **HPARAMS)
    assert batch.edits["error"].eq("nobody moves Miles Davis").all()
    assert set(batch.frame["method"]) == {"unedited"}


@pytest.mark.parametrize("mode", ["single", "batch", "sequential"])
def test_a_case_that_cannot_be_asked_is_left_out_and_named(model: Model, mode: Any) -> None:
    """Of its chunk the others are measured as they would be without it."""
    long = Question(kind="neighbour", prompt="very " * 100 + "long", answers=((" Rome",),))
    records = [RECORDS[0], RECORDS[1].model_copy(update={"asks": (*RECORDS[1].asks, long)}), RECORDS[2]]
    result = evaluate(model, records, "rome", mode, layers=[1], **QUICK, **HPARAMS)
    assert set(result.frame["case_id"]) == {"case 0", "case 2"}
    errors = result.edits[result.edits["error"] != ""].set_index("method")["error"]
    assert "n_ctx = 64" in errors["unedited"] and errors["unedited"].startswith("cannot be asked: case case 1")
    if mode == "single":
        assert errors["rome"] == "cannot be asked, like the unedited model"
        alone = evaluate(model, [RECORDS[0]], "rome", layers=[1], **QUICK, **HPARAMS)
        found, expected = (values(each.frame, method="rome", case_id="case 0") for each in (result, alone))
        assert_close(found, expected)


def test_a_model_that_says_no_numbers_is_as_ill_as_can_be(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench_module.compute_edits

    def broken(*given: Any, **more: Any) -> Any:
        return [edit.scale(1e36) for edit in real(*given, **more)]

    monkeypatch.setattr(bench_module, "compute_edits", broken)
    options = {**QUICK, "canary_tokens": 16, "layers": [1], **HPARAMS}
    result = evaluate(model, RECORDS[:2], "rome", "sequential", on_alarm="rollback", **options)
    worst = result.health.set_index("measure")["value"]
    assert np.isinf(worst[["perplexity", "kl drift"]]).all()
    assert result.edits["error"].str.contains("alarm").tolist() == [True, True]
    single = evaluate(model, RECORDS[:2], "rome", **options)
    assert single.edits["error"].str.contains("cannot be asked: .*numbers").all()
    assert set(single.frame["method"]) == {"unedited"}


def test_answers_and_edits_survive_as_bytes(model: Model) -> None:
    (answers,) = ask_records(model, RECORDS[:1], texts=False)
    again = answers_from_bytes(answers_to_bytes(answers))
    assert repr(again) == repr(answers)  # nan is not nan
    edit = handmade(model)
    assert edit_from_bytes(edit_to_bytes(edit)).same_as(edit)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"records": []}, "the list of records is empty"),
        ({"records": [RECORDS[0], RECORDS[1], RECORDS[0]]}, "records 0 and 2 both have the case id 'case 0'"),
        ({"method": "room"}, "there is no method 'room'"),
        ({"method": ["rome", "rome"]}, "cells 0 and 1 are the same"),
        ({"mode": "both"}, "mode is 'both'; expected one of single, batch, sequential"),
        ({"chunk": 0}, "chunk is 0"),
        ({"controls": ("none",)}, "there is no control 'none'"),
        ({"speed": 3}, "'speed' is neither an option of an evaluation"),
        ({"on_alarm": "panic"}, "on_alarm is 'panic'"),
        ({"limits": {"kl": -1}}, "the limit kl is -1"),
    ],
)
def test_bad_input_is_named(model: Model, change: dict[str, Any], message: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"records": RECORDS[:1], "method": "rome", "path": tmp_path / "run", **QUICK, **change}
    with pytest.raises(TracerError, match=message):
        evaluate(model, **given)
    assert not (tmp_path / "run").exists()


def test_a_file_of_another_run_or_model_is_refused(model: Model, tiny: Tiny, tmp_path: Path) -> None:
    options = {"layers": [1], **QUICK, **HPARAMS}
    evaluate(model, RECORDS[:1], path=tmp_path / "run", **options)
    for other in ({"seed": 1}, {"layers": [2]}, {"control_cases": 7}):
        with pytest.raises(TracerError):
            evaluate(model, RECORDS[:1], path=tmp_path / "run", **{**options, **other})
    with pytest.raises(TracerError):
        evaluate(tiny("llama"), RECORDS[:1], path=tmp_path / "run", **options)
    changed = own(model)
    with torch.no_grad():
        changed.down_projection(0).weight[0, 0] += 1
    with pytest.raises(TracerError):
        evaluate(changed, RECORDS[:1], path=tmp_path / "run", **options)


def test_workers_of_their_own_processes_find_the_same(tiny_folder: Callable[[str], Path], tmp_path: Path) -> None:

    model = tracer.load(tiny_folder("gpt2"))
    protocol = replace(Protocol.of(QUICK), chunk=1)
    cells = cells_of(["rome"], [model.name], layers=[(1,)], hparams=HPARAMS)
    frames = []
    for workers in (1, 2):
        path = tmp_path / f"run{workers}"
        begin(path, [model], RECORDS[:3], cells, protocol)
        frames.append(carry_on(path, workers=workers).frame)
        with Store.open(path) as store:
            assert store.progress().done == 6
    one, two = (frame[~frame["metric"].isin(MEASURED)].reset_index(drop=True) for frame in frames)
    pd.testing.assert_frame_equal(one, two)
