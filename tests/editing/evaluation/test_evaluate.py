"""Protocols against plain loops: each case alone, all at once, one after the other; controls and alarms."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from evaluation_runs import HPARAMS, QUICK, RECORDS, Tiny, assert_close, values
from handmade import own

from editing.datasets import EditRecord
from editing.edits.weights import applied
from editing.evaluation.run import worker as bench_module
from editing.evaluation.run.protocol import Cell, Protocol, jobs_of
from editing.evaluation.run.start import cells_of, evaluate
from editing.ledger.editor import Editor
from editing.methods.compute import compute_edit
from editing.questions.asking_records import ask_records
from editing.questions.metrics import case_metrics
from editing.questions.text_metrics import essence_perplexity
from tracer import Model, TracerError


def plain(model: Model, case: EditRecord, before: Any) -> dict[tuple, float]:
    """Metrics of a case as the model is."""
    (answers,) = ask_records(model, [case], texts=False, before=[before])
    return {(case.case_id, value.metric): value.value for value in case_metrics(case, answers, before)}


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_single_is_each_case_alone(architecture: str, tiny: Tiny) -> None:
    model = tiny(architecture)
    fingerprint = model.fingerprint()
    result = evaluate(model, RECORDS, "rome", layers=[1], **QUICK, **HPARAMS)
    assert model.fingerprint() == fingerprint
    before = ask_records(model, RECORDS, texts=False)
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
    before = ask_records(model, RECORDS, texts=False)
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
    before = ask_records(model, RECORDS, texts=False)
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


def test_records_without_paraphrases_have_no_such_row(model: Model) -> None:
    bare = RECORDS[0].model_copy(update={"asks": ()})
    result = evaluate(model, [bare], "rome", layers=[1], **QUICK, **HPARAMS)
    metrics = set(result.frame["metric"])
    assert "rewrite success" in metrics and not any("paraphrase" in name or "neighbour" in name for name in metrics)


def test_cells_are_every_combination(model: Model) -> None:
    cells = cells_of(["rome", "memit"], ["a", "b"], ["single", "batch"], [(1,), (2,)], [0, 1], {"mom2_weight": 3.0})
    assert len(cells) == len({repr(cell) for cell in cells}) == 32
    assert all(dict(cell.hparams) == ({"mom2_weight": 3.0} if cell.method == "memit" else {}) for cell in cells)
    jobs = jobs_of(cells, RECORDS, Protocol(chunk=3))
    assert len({job.key for job in jobs}) == len(jobs)
    assert {job.key: job.after for job in jobs}["0/3"] == ("unedited a/3",)
    assert Cell(**asdict(cells[0])) == cells[0]
