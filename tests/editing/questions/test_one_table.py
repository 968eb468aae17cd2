"""One way to ask and one table of metrics: every door gives the same number, and a metric is one entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from handmade_evaluation import evaluation
from repository import ROOT, SUPPORT

import editing
from editing import questions
from editing.edits.weights import applied
from editing.evaluation.result.evaluation import Evaluation
from editing.plots.evaluation import HOWS as DRAWN
from editing.questions import measures, question_metrics
from editing.questions.asking import ask
from editing.questions.measures import SCORED, edit_scores
from editing.questions.metrics import HOWS, METRICS, Metric, shown
from editing.questions.probes import Probes
from editing.questions.question import KINDS, Question
from editing.questions.question_metrics import QUESTION_METRICS
from editing.report import as_markdown, render
from editing.report.markdown import COLUMNS
from editing.workbench.session import Session
from tracer import Model, TracerError, load

PARAPHRASES = ["To see The Space Needle go to", "The Space Needle stands in"]
NEIGHBOURS = ["Smith Tower is in downtown", "Pike Place Market is in"]
RECORD = {
    "case_id": "a",
    "requested_rewrite": {
        "prompt": "{} is in downtown",
        "subject": "The Space Needle",
        "target_new": {"str": "Paris"},
        "target_true": {"str": "Seattle"},
    },
    "paraphrase_prompts": PARAPHRASES,
    "neighborhood_prompts": NEIGHBOURS,
}
WHOLE = evaluation()
QUICK: dict[str, Any] = {"steps": 15}


@pytest.fixture(scope="module")
def world() -> Model:
    return load()


# --- one number ------------------------------------------------------------------------------------------------------
def test_four_doors_give_one_number(world: Model) -> None:
    """ES, PS and NS of one fact by the workbench, by an outcome, by the choice of layers and by an evaluation."""
    session = Session(world)
    session.align("{} is in downtown", "The Space Needle", "Seattle")
    texts: dict[str, Any] = {"paraphrases": PARAPHRASES, "neighbours": NEIGHBOURS, "generate": []}
    proposal = session.proposed("Paris", "ft_l", [1], **texts, **QUICK)
    page = proposal.outcome.summary().set_index("group")["after as meant"]
    with applied(world, proposal.edit.factors):
        probes = Probes.of(RECORD)
        outcome, scores = editing.measure(world, probes), edit_scores(world, [probes])
    located = editing.locate(world, RECORD, "sweep", layers=[1], method="ft_l", **QUICK)
    options: dict[str, Any] = {"controls": (), "texts": False, "generate": False, "canary_tokens": 0}
    run = editing.evaluate(world, [RECORD], "ft_l", layers=[1], **options, **QUICK)
    table = run.metrics.query("method == 'ft_l'").set_index("metric")["value"]
    report = run.summary().query("method == 'ft_l'").set_index("metric")["mean"]
    seen = []
    for kind, measure in SCORED.items():
        numbers = [page[kind], outcome.as_meant[probes.group(kind)].mean(), scores[measure][0]]
        numbers += [located.evidence[measure][0, 1], table[f"{kind} success"], report[f"{kind} success"]]
        assert len(set(map(float, numbers))) == 1, (kind, numbers)
        margins = [scores[f"{measure} margin"][0], located.evidence[f"{measure} margin"][0, 1]]
        assert {*margins} == {table[f"{kind} magnitude"]}
        seen.append(float(numbers[0]))
    assert seen[0] == 1  # the edit took, so that not all numbers are those of a model without it


def test_success_is_one_function(world: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    success = QUESTION_METRICS["success"].function
    assert success is question_metrics.success
    assert all(METRICS[f"{kind} success"].function is success for kind in KINDS)
    assert measures.METRIC_BY["preferred"] == "success"
    turned = replace(QUESTION_METRICS["success"], function=lambda one, _: 1 - success(one))
    probes = Probes.of(RECORD)
    before = ask(world, probes).as_meant, edit_scores(world, [probes])
    monkeypatch.setitem(QUESTION_METRICS, "success", turned)
    after = ask(world, probes).as_meant, edit_scores(world, [probes])
    np.testing.assert_array_equal(after[0], 1 - before[0])
    for measure in SCORED.values():
        np.testing.assert_array_equal(after[1][measure], 1 - before[1][measure])


def test_a_question_is_the_same_by_either_way_of_writing_it() -> None:
    new = Question.of("paraphrase", "It is in", " Paris", " Seattle")
    assert new == Question(kind="paraphrase", prompt="It is in", answers=((" Paris",),), against=" Seattle")
    old = Question.of("neighbour", "It is in", " Paris", " Seattle")
    assert (old.answer, old.against, old.new, old.true) == (" Seattle", " Paris", " Paris", " Seattle")
    open_ = Question.of("neighbour", "It is in", " Paris")
    assert (open_.answer, open_.true, open_.knowing(" Seattle")) == (None, None, old)
    assert "case" not in old.of_case(3).model_dump()  # records in files that were written before have none


# --- one entry -------------------------------------------------------------------------------------------------------
def test_a_metric_is_one_entry_of_the_table(world: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a case, of the model and of an edit: measured in a run, and shown wherever it says."""
    places: Any = ("text", "page", "radar")
    count = Metric("letters", "", None, "letters", "Letters of a record's prompts.", "case", show=places)
    count = replace(count, function=lambda case: (float(sum(map(len, case.record.generate or ["four"]))), 1))
    depth = Metric("depth", "", None, "layers", "Layers.", "model", lambda moment: moment.model.n_layers)
    parts = Metric("parts", "", None, "weights", "Weights changed.", "edit", lambda edit, _: len(edit.factors))
    for metric in (count, depth, parts):
        monkeypatch.setitem(METRICS, metric.name, metric)
    options: dict[str, Any] = {"controls": (), "texts": False, "generate": False, "canary_tokens": 0}
    run = editing.evaluate(world, [RECORD], "ft_l", layers=[1], **options, **QUICK)
    found = run.metrics.set_index(["method", "metric"])["value"]
    assert found["ft_l", "letters"] == found["unedited", "letters"] == 4
    assert found["ft_l", "depth"] == found["unedited", "depth"] == world.n_layers
    assert found["ft_l", "parts"] == 1 and ("unedited", "parts") not in found
    assert "letters" in str(run) and "depth" not in str(run)
    assert "Letters of a record&#39;s prompts." in (page := render(run)) or "Letters of a record's prompts." in page
    assert [axis for axis in editing.plot_radar(run, by="forced").data[0].theta if "letters" in axis]


def test_what_is_shown_is_what_the_table_says() -> None:
    attacked = "attack success (head projection)"
    named = ["fluency", "consistency", attacked, "perplexity", "kl drift", "seconds"]
    assert [metric.name for metric in shown("text")] == named
    assert {name for names in COLUMNS.values() for name in names} >= {metric.name for metric in shown("markdown")}
    assert {*HOWS} == {*DRAWN} and {*HOWS.values()} <= {*QUESTION_METRICS}
    every = [name for names in COLUMNS.values() for name in names]
    assert [name for name in every if name not in METRICS] == []
    assert as_markdown(WHOLE).count(" fluency ") == as_markdown(WHOLE).count("**") / 2


# --- former names ----------------------------------------------------------------------------------------------------
OLD = SUPPORT / "data" / "run_before_renaming.sqlite"
SHARED = ROOT / "benchmarks"


def old_run(folder: Path) -> Path:
    path = folder / "run.sqlite"
    path.write_bytes(OLD.read_bytes())
    return path


def words_of(run: Evaluation) -> set[str]:
    return {word.strip("()") for name in run.metrics["metric"] for word in name.split()}


def test_a_run_with_former_names_is_read(tmp_path: Path) -> None:
    path = old_run(tmp_path)
    before = path.read_bytes()
    run = Evaluation.load(path)
    assert path.read_bytes() == before  # reading changes no file
    assert {"generated", "unchanged"} <= words_of(run) and not {"said", "kept"} & words_of(run)
    assert "match" in run.answers and "said" not in run.answers
    assert set(run.answers["match"].dropna()) == {0.0, 1.0}
    assert {*run.metrics["metric"]} <= {*METRICS}
    assert run.retention is not None and "free generation" in str(run)
    saved = Evaluation.load(run.save(tmp_path / "saved.sqlite"))
    pd.testing.assert_frame_equal(saved.metrics, run.metrics)


def test_a_run_with_former_names_goes_on(world: Model, tmp_path: Path) -> None:
    """Its rows have one name each afterwards, and those that are new are what a run in one go would have."""
    path = old_run(tmp_path)
    half = Evaluation.load(path)
    records = editing.load_records("factworld", split="test", limit=3)
    options: dict[str, Any] = {"canary_tokens": 64, "controls": (), "texts": False, "chunk": 1}
    went_on = editing.evaluate(world, records, "ft_l", path=path, **options)
    whole = editing.evaluate(world, records, "ft_l", **options)
    assert len(half.metrics) < len(went_on.metrics)
    assert not {"said", "kept"} & words_of(went_on)
    measured = ("seconds", "peak bytes")
    key = ["method", "case_id", "metric"]
    one, two = (run.metrics[~run.metrics["metric"].isin(measured)].sort_values(key) for run in (went_on, whole))
    near: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}  # the former rows are another processor's
    pd.testing.assert_frame_equal(one.reset_index(drop=True), two.reset_index(drop=True), **near)
    key = ["method", "case_id", "kind", "prompt", "answer"]
    one, two = (run.answers.sort_values(key, kind="stable").reset_index(drop=True) for run in (went_on, whole))
    pd.testing.assert_frame_equal(one, two, **near)


@pytest.mark.parametrize("name", ["factworld_sweep.parquet", "real/edits.parquet"])
def test_tables_with_former_names_are_read(name: str) -> None:
    rows = pd.read_parquet(SHARED / name)
    run = Evaluation.of(metrics=rows)
    assert len(run.metrics) == len(rows)
    assert "generated" in words_of(run) and not {"said", "kept"} & words_of(run)
    assert {*run.metrics["metric"]} <= {*METRICS}


@pytest.mark.parametrize(
    ("use", "now"),
    [
        (lambda: WHOLE.summary(metrics=["rewrite said"], resamples=1), "'rewrite generated'"),
        (lambda: WHOLE.retention("reliability (said)", resamples=1), r"'reliability \(generated\)'"),
        (lambda: editing.plot_radar(WHOLE, by="said"), "'generated'"),
        (lambda: editing.datasets.Ask, "Question"),
        (lambda: questions.Measured, "Answers"),
        (lambda: questions.outcome.Measured, "Answers"),
        (lambda: editing.evaluation.ask, "ask_records"),
        (lambda: Question.of("rewrite", "a", "b").group, "kind"),
    ],
)
def test_former_names_say_what_they_are_called_now(use: Callable[[], Any], now: str) -> None:
    with pytest.warns(DeprecationWarning, match=now):
        use()


# --- proposals -------------------------------------------------------------------------------------------------------
def test_a_proposal_is_measured_before_it_is_made(world: Model) -> None:
    editor = editing.Editor(world)
    before = world.fingerprint()
    proposal = editing.propose(editor, RECORD, method="ft_l", layers=[1], **QUICK)
    assert world.fingerprint() == before and editor.position == 0
    assert [q.kind for q in proposal.outcome.probes.questions] == ["rewrite", *["paraphrase"] * 2, *["neighbour"] * 2]
    with applied(world, proposal.edit.factors):
        by_hand = editing.Outcome(proposal.outcome.before, editing.measure(world, Probes.of(RECORD)))
    assert proposal.outcome.to_frame().equals(by_hand.to_frame())
    assert proposal.commit() is proposal.edit
    assert world.fingerprint() == proposal.outcome.after.fingerprint
    with pytest.raises(TracerError, match="weights"):
        proposal.commit()  # of other weights than the model has now
    editor.undo()
    again = editing.propose(editor, proposal.edit, Probes.of(RECORD))
    assert again.edit is proposal.edit and again.outcome.to_frame().equals(by_hand.to_frame())
    assert world.fingerprint() == before
