"""Protocols against plain loops: each case alone, all at once, one after the other; runs that are cut off and go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from handmade import handmade, own

import tracer
from editing.datasets import Ask, EditRecord, Rewrite
from editing.edits.weights import applied
from editing.evaluation.run import worker as bench_module
from editing.evaluation.run.blobs import answers_from_bytes, answers_to_bytes, edit_from_bytes, edit_to_bytes
from editing.evaluation.run.protocol import Cell, Protocol, jobs_of
from editing.evaluation.run.start import begin, carry_on, cells_of, evaluate
from editing.ledger.editor import Editor
from editing.methods.compute import compute_edit
from editing.questions.answers import ask
from editing.questions.metrics import case_metrics
from editing.questions.text_metrics import essence_perplexity
from tracer import Model, TracerError
from tracer.runs import Store

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
        Ask(kind="paraphrase", prompt=f"You can see {subject} in", answers=((" Rome",),), against=f" {true}"),
        Ask(kind="neighbour", prompt="Yo-Yo Ma is in", answers=((f" {true}",),), against=" Rome"),
        Ask(kind="same_subject", prompt=f"{subject} is the"),
    )
    rewrite = Rewrite(prompt="{} is in downtown", subject=subject, target_new="Rome", target_true=true)
    return EditRecord(case_id=f"case {place}", source="test", rewrites=(rewrite,), asks=asks, **more)


RECORDS = [record(place) for place in range(4)]


@pytest.fixture
def model(tiny: Tiny) -> Iterator[Model]:
    found = tiny("gpt2")
    before = found.fingerprint()
    yield found
    assert found.fingerprint() == before


def values(frame: pd.DataFrame, **where: Any) -> dict[tuple, float]:
    """Values by case and metric of the rows that have these labels."""
    wanted = ~frame["metric"].isin(MEASURED)
    for name, value in where.items():
        wanted &= frame[name] == value
    rows = frame.loc[wanted]
    assert not rows.duplicated(["case_id", "after", "metric"]).any()
    return dict(zip(zip(rows["case_id"], rows["metric"], strict=True), rows["value"], strict=True))


def plain(model: Model, case: EditRecord, before: Any) -> dict[tuple, float]:
    """Metrics of a case as the model is."""
    (answers,) = ask(model, [case], texts=False, before=[before])
    return {(case.case_id, value.metric): value.value for value in case_metrics(case, answers, before)}


def assert_close(found: dict[tuple, float], expected: dict[tuple, float]) -> None:
    assert {**expected}.keys() <= found.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-5, nan_ok=True), key


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_single_is_each_case_alone(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    fingerprint = model.fingerprint()
    result = evaluate(model, RECORDS, "rome", layers=[1], **QUICK, **HPARAMS)
    assert model.fingerprint() == fingerprint
    before = ask(model, RECORDS, texts=False)
    expected, untouched = {}, {}
    for case, old in zip(RECORDS, before, strict=True):
        edit = compute_edit(model, case.requests(), "rome", known="edit", layers=[1], **HPARAMS)
        with applied(model, edit.factors):
            expected |= plain(model, case, old)
        untouched |= {(case.case_id, v.metric): v.value for v in case_metrics(case, old, None)}
    found = values(result.frame, method="rome", control="")
    assert_close(found, expected)
    extra = {metric for _, metric in found} - {metric for _, metric in expected}
    assert extra == {"edit norm"}
    assert_close(values(result.frame, method="unedited"), untouched)
    assert result.edits["error"].eq("").all() and (result.edits["seconds"] > 0).all()
    assert set(result.answers["method"]) == {"unedited", "rome"}


def test_protocol_and_hyper_parameters_may_be_given_apart(model: Model) -> None:
    named = evaluate(model, RECORDS[:2], "rome", layers=[1], **QUICK, **HPARAMS)
    apart = evaluate(model, RECORDS[:2], "rome", layers=[1], protocol=Protocol(**QUICK), hparams=HPARAMS)
    assert apart.settings["protocol"] == named.settings["protocol"]
    assert_close(values(apart.frame, method="rome"), values(named.frame, method="rome"))
    cases: tuple[dict[str, Any], ...] = ({"texts": True}, {"v_steps": 4})
    for twice in cases:
        with pytest.raises(TracerError, match=f"{next(iter(twice))} is given by its name and again"):
            evaluate(model, RECORDS[:2], "rome", protocol=Protocol(**QUICK), hparams=HPARAMS, **twice)


def test_batch_is_one_edit_for_all(model: Model) -> None:
    settings = {name: value for name, value in HPARAMS.items() if name != "mom2_adjustment"}
    result = evaluate(model, RECORDS, "emmet", "batch", layers=[1, 2], batch=3, damping=1e-2, **QUICK, **settings)
    before = ask(model, RECORDS, texts=False)
    for some in (RECORDS[:3], RECORDS[3:]):
        requests = [request for case in some for request in case.requests()]
        edit = compute_edit(model, requests, "emmet", known="edit", layers=[1, 2], damping=1e-2, **settings)
        found = values(result.frame, method="emmet", after=len(some))
        assert {case for case, _ in found} == {case.case_id for case in some}
        with applied(model, edit.factors):
            for case in some:
                old = before[RECORDS.index(case)]
                mine = {key: value for key, value in found.items() if key[0] == case.case_id}
                assert_close(mine, plain(model, case, old))
        rows = result.edits[result.edits["case_id"].isin([case.case_id for case in some])]
        assert rows["norm"].to_numpy() == pytest.approx(np.sqrt(sum(n**2 for n in edit.norm().values())), rel=1e-4)


@pytest.mark.parametrize("step", [1, 2])
def test_sequential_leaves_edits_in_place(model: Model, step: int) -> None:
    """Every step on top of the ones before; the matrix of edit i after edit j is that of a plain loop."""
    result = evaluate(
        model, RECORDS, "rome", "sequential", layers=[1], step=step, moments=4, retention=99, **QUICK, **HPARAMS
    )
    editor = Editor(own(model))
    before = ask(model, RECORDS, texts=False)
    frame = result.frame[result.frame["method"] == "rome"]
    for start in range(0, 4, step):
        some = RECORDS[start : start + step]
        requests = [request for case in some for request in case.requests()]
        editor.edit(requests, "rome", known="edit", layers=[1], **HPARAMS)
        for place in range(start + step):
            mine = frame[(frame["position"] == place) & (frame["after"] == start + step)]
            assert_close(values(mine), plain(editor.model, RECORDS[place], before[place]))
    asked = frame.drop_duplicates(["position", "after"])[["position", "after"]]
    assert len(asked) == {1: 1 + 2 + 3 + 4, 2: 2 + 4}[step]  # nothing twice
    assert set(result.health["measure"]) == {"norm growth"}
    assert result.retention() is not None


def test_retention_keeps_to_its_budget(model: Model) -> None:
    result = evaluate(model, RECORDS, "rome", "sequential", layers=[1], moments=4, retention=5, **QUICK, **HPARAMS)
    frame = result.frame[(result.frame["method"] == "rome") & (result.frame["after"] > result.frame["position"] + 1)]
    per_moment = frame.drop_duplicates(["position", "after"]).groupby("after").size().to_dict()
    assert per_moment == {4: 3}  # four at the end at most (of which one was just made), none left for the others


class Cut(Exception):
    pass


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
    count, real = [0], bench_module.ask

    def counting(*given: Any, **more: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise KeyboardInterrupt
        return real(*given, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bench_module, "ask", counting)
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


def test_controls_stand_in_the_same_table(model: Model) -> None:
    options = {**QUICK, **HPARAMS, "controls": ("random direction", "random layer")}
    result = evaluate(model, RECORDS, ["rome", "kn"], control_cases=3, **options)
    frame = result.frame
    found = frame.groupby(["method", "control"])["case_id"].nunique().to_dict()
    assert found[("rome", "random direction")] == found[("rome", "random layer")] == 3 and found["rome", ""] == 4
    assert ("kn", "random direction") in found and ("kn", "random layer") not in found  # takes no layers
    norms = {c: values(frame, method="rome", control=c) for c in ("", "random direction")}
    for case in RECORDS[:3]:
        key = (case.case_id, "edit norm")
        assert norms["random direction"][key] == pytest.approx(norms[""][key], rel=1e-5)
    assert set(result.answers["control"]) == {""}


@pytest.mark.parametrize(("on_alarm", "left"), [("record", 4), ("stop", 3), ("rollback", 2)])
def test_an_alarm_can_stop_and_roll_back(
    model: Model, on_alarm: Any, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third edit is a thousand times as large as it should be."""
    real, calls = bench_module.compute_edits, [0]

    def huge(*given: Any, **more: Any) -> Any:
        calls[0] += 1
        edits = real(*given, **more)
        return [edit.scale(1000.0) for edit in edits] if calls[0] == 3 else edits

    monkeypatch.setattr(bench_module, "compute_edits", huge)
    result = evaluate(
        model, RECORDS, "rome", "sequential", layers=[1], on_alarm=on_alarm, retention=9, moments=1, **QUICK, **HPARAMS
    )
    alarms = result.health[result.health["alarm"] == 1]
    assert alarms["after"].min() == 3
    stopped = result.edits[result.edits["error"] != ""]
    assert len(stopped) == {"record": 0, "stop": 1, "rollback": 2}[on_alarm]
    rows = result.frame[result.frame["method"] == "rome"]
    last = rows[rows["after"] > rows["position"] + 1]
    assert last["after"].max() == left
    if on_alarm == "rollback":
        assert stopped["error"].str.contains("rolled back to 2").tolist() == [False, True]
        first = values(rows[(rows["position"] == 0) & (rows["after"] == 2)])
        assert max(value for key, value in first.items() if "magnitude" in key[1]) < 1


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
def test_texts_about_the_subject_are_read_again(model: Model, mode: Any) -> None:
    """Essence perplexity before and after, where there are such texts."""
    told = ("The Space Needle is in downtown Seattle.", "It is a tower.")
    records = [RECORDS[0].model_copy(update={"essence": told}), RECORDS[1]]
    result = evaluate(model, records, "rome", mode, layers=[1], **QUICK, **HPARAMS)
    rows = result.frame[result.frame["metric"] == "essence perplexity"].set_index("method")["value"]
    assert rows["unedited"] == pytest.approx(essence_perplexity(model, told))
    requests = [request for record in (records if mode == "batch" else records[:1]) for request in record.requests()]
    with applied(model, compute_edit(model, requests, "rome", known="edit", layers=[1], **HPARAMS).factors):
        assert rows["rome"] == pytest.approx(essence_perplexity(model, told), rel=1e-4) != rows["unedited"]


@pytest.mark.parametrize("mode", ["single", "batch", "sequential"])
def test_a_case_that_cannot_be_asked_is_left_out_and_named(model: Model, mode: Any) -> None:
    """Of its chunk the others are measured as they would be without it."""
    long = Ask(kind="neighbour", prompt="very " * 100 + "long", answers=((" Rome",),))
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
    (answers,) = ask(model, RECORDS[:1], texts=False)
    again = answers_from_bytes(answers_to_bytes(answers))
    assert repr(again) == repr(answers)  # nan is not nan
    edit = handmade(model)
    assert edit_from_bytes(edit_to_bytes(edit)).same_as(edit)


def test_records_without_paraphrases_have_no_such_row(model: Model) -> None:
    bare = RECORDS[0].model_copy(update={"asks": ()})
    result = evaluate(model, [bare], "rome", layers=[1], **QUICK, **HPARAMS)
    metrics = set(result.frame["metric"])
    assert "rewrite success" in metrics and not any("paraphrase" in name or "neighbour" in name for name in metrics)


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


def test_cells_are_every_combination(model: Model) -> None:
    cells = cells_of(["rome", "memit"], ["a", "b"], ["single", "batch"], [(1,), (2,)], [0, 1], {"mom2_weight": 3.0})
    assert len(cells) == len({repr(cell) for cell in cells}) == 32
    assert all(dict(cell.hparams) == ({"mom2_weight": 3.0} if cell.method == "memit" else {}) for cell in cells)
    jobs = jobs_of(cells, RECORDS, Protocol(chunk=3))
    assert len({job.key for job in jobs}) == len(jobs)
    assert {job.key: job.after for job in jobs}["0/3"] == ("unedited a/3",)
    assert Cell(**asdict(cells[0])) == cells[0]


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
