"""What an evaluation says: means, intervals, S, pairs and retention against plain loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from handmade_evaluation import CASES, evaluation, labels, row, subject

from editing.evaluation.result.evaluation import Evaluation
from editing.evaluation.result.schema import LABELS
from editing.evaluation.result.series import series_of
from editing.evaluation.result.stages import staged
from editing.evaluation.result.summary import HARMONIC, harmonic
from editing.report import as_markdown
from tracer import TracerError

ROME = labels("rome")
EDIT_AND_INSTANCE = ("edit-wise accuracy", "instance-wise accuracy")


def of(rows: Sequence[Mapping[str, Any]]) -> Evaluation:
    return Evaluation.of(metrics=list(rows))


def one(frame: Any, **values: Any) -> Any:
    """The one row with these values."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    assert len(frame) == 1, frame
    return frame.iloc[0]


def draws(subjects: Sequence[str], resamples: int, seed: int) -> list[list[int]]:
    """Of each draw the rows it holds, by a plain loop over subjects in order."""
    names = sorted(set(subjects))
    random = np.random.default_rng(seed)
    rows = [[i for i, each in enumerate(subjects) if each == name] for name in names]
    return [
        [i for place in random.integers(len(names), size=len(names)) for i in rows[place]] for _ in range(resamples)
    ]


# --- summary ---------------------------------------------------------------------------------------------------------
def test_means_and_intervals_are_those_of_a_plain_loop() -> None:
    values = np.random.default_rng(1).normal(size=CASES)
    cases = list(range(CASES))
    found = of([row(ROME, i, "fluency", values[i], n=3) for i in cases]).summary(level=0.9, resamples=500, seed=7)
    means = [values[rows].mean() for rows in draws([subject(i) for i in cases], 500, 7)]
    low, high = np.quantile(means, [0.05, 0.95])
    assert found[["stage", "metric", "n", "prompts", "subjects"]].values.tolist() == [["edited", "fluency", 12, 36, 10]]
    np.testing.assert_allclose(found[["mean", "low", "high"]].to_numpy()[0], [values.mean(), low, high])


def test_the_order_of_rows_and_other_metrics_change_nothing() -> None:
    whole = evaluation()
    mixed = Evaluation.of(metrics=whole.metrics.sample(frac=1, random_state=0))
    keys = [*LABELS, "stage", "metric"]
    for a, b in ((whole.summary(), mixed.summary()), (whole.score(), mixed.score())):
        keys = [key for key in keys if key in a]
        pd.testing.assert_frame_equal(
            a.sort_values(keys).reset_index(drop=True), b.sort_values(keys).reset_index(drop=True)
        )
    alone = whole.summary(metrics=["fluency"])
    both = whole.summary()
    pd.testing.assert_frame_equal(alone, both[both["metric"] == "fluency"].reset_index(drop=True))


def test_what_is_pooled_and_what_is_not() -> None:
    rows = [row(labels("rome", seed=seed), i, "fluency", float(seed)) for seed in (0, 4) for i in range(3)]
    apart = of(rows).summary()
    assert apart["mean"].tolist() == [0.0, 4.0]
    pooled = of(rows).summary(["method"])
    assert (pooled["mean"].tolist(), pooled["n"].tolist(), pooled["prompts"].tolist()) == ([2.0], [3], [6])
    assert pooled["low"].item() == pooled["high"].item() == 2.0  # seeds of a subject are drawn together
    with pytest.raises(TracerError, match="expected some of model, method"):
        of(rows).summary(["fluency"])


def test_facts_written_count_each_where_the_published_mean_is_over_facts() -> None:
    """Four facts of one case named, and one of another not: 4 of 5, where the mean over cases is a half."""
    rows = [row(ROME, i, name, value, n=n) for i, value, n in ((0, 1.0, 4), (1, 0.0, 1)) for name in EDIT_AND_INSTANCE]
    found = of(rows).summary()
    assert found["mean"].tolist() == [0.8, 0.5] and found["n"].tolist() == [2, 2]
    lines = str(of(rows)).splitlines()
    shown = {name: next(line for line in lines if name in line) for name in EDIT_AND_INSTANCE}
    assert "80.0 %" in shown["edit-wise accuracy"] and "50.0 %" in shown["instance-wise accuracy"]
    assert "| edit-wise accuracy | instance-wise accuracy |" in as_markdown(of(rows))


def test_nan_is_left_out_and_an_infinite_value_is_not_hidden() -> None:
    values = [1.0, np.nan, 3.0, 1.0, 2.0, np.inf]
    names = ["fluency"] * 3 + ["perplexity"] * 3
    found = of([row(ROME, i, *pair) for i, pair in enumerate(zip(names, values, strict=True))]).summary()
    fluency, perplexity = (one(found, metric=name) for name in ("fluency", "perplexity"))
    assert (fluency["mean"], fluency["n"]) == (2.0, 2)
    assert perplexity["mean"] == np.inf
    assert np.isnan(perplexity["low"])
    assert np.isnan(perplexity["high"])
    assert of([row(ROME, 0, "fluency", np.nan)]).summary().empty
    assert of([]).summary().empty


# --- stages ----------------------------------------------------------------------------------------------------------
def sequence(positions: Mapping[int, Sequence[int]], value: float = 1.0, **more: Any) -> list[dict[str, Any]]:
    """Rows of edits one after another: moments, and the positions that were measured then."""
    of = labels("rome", mode="sequential", **more)
    return [
        row(of, place, "reliability (generated)", value * place, position=place, after=after)
        for after, places in positions.items()
        for place in places
    ]


def test_stages() -> None:
    rows = [
        row(labels("unedited"), 0, "fluency", 1.0),
        row(ROME, 0, "fluency", 2.0),
        row(ROME, 0, "fluency", 9, after=0),
    ]
    rows.append(row(labels("memit", mode="batch"), 0, "fluency", 3.0, after=100))
    found = staged(of(rows).metrics)
    assert sorted(zip(found["stage"], found["value"], strict=True)) == [("edited", 2), ("edited", 3), ("unedited", 1)]
    steps = sequence({2: [0, 1, 2], 4: [0, 2, 3], 5: [4], 6: [5]})  # 2 is measured before its edit as well
    found = staged(of(steps).metrics)
    at = [(s, p, a) for s, p, a in zip(found["stage"], found["position"], found["after"], strict=True)]
    assert at == [("edited", p, a) for p, a in ((0, 2), (1, 2), (2, 4), (3, 4), (4, 5), (5, 6))] + [
        ("end", p, 4) for p in (0, 2, 3)
    ]


@pytest.mark.parametrize(
    ("moments", "end"),
    [({1: [0], 2: [1], 3: [2]}, None), ({3: [0, 1, 2]}, 3), ({1: [0], 2: [0, 1], 3: [2]}, 2)],
    ids=["never looked back", "all at once", "looked back once"],
)
def test_the_end_is_where_older_edits_were_measured(moments: dict[int, list[int]], end: int | None) -> None:
    found = staged(of(sequence(moments)).metrics)
    assert set(found.loc[found["stage"] == "end", "after"]) == ({end} if end else set())


# --- S ---------------------------------------------------------------------------------------------------------------
def test_score_is_the_harmonic_mean_of_means_drawn_together() -> None:
    values = np.random.default_rng(2).random((CASES, 3))
    rows = [row(ROME, i, name, values[i, k]) for i in range(CASES) for k, name in enumerate(HARMONIC)]
    found = of(rows).score(resamples=400, seed=3)
    scores = []
    for chosen in draws([subject(i) for i in range(CASES)], 400, 3):
        es, ps, ns = values[chosen].mean(0)
        scores.append(3 / (1 / es + 1 / ps + 1 / ns))
    es, ps, ns = values.mean(0)
    expected = [3 / (1 / es + 1 / ps + 1 / ns), *np.quantile(scores, [0.025, 0.975])]
    np.testing.assert_allclose(found[["mean", "low", "high"]].to_numpy()[0], expected)
    assert found["n"].tolist() == [CASES]


def test_harmonic_by_hand() -> None:
    several = harmonic(*np.array([[1, 0.5, 0.25], [1, 1, 1], [1, 0, 1]]).T)
    np.testing.assert_allclose(several, [3 / 7, 1, 0])
    assert harmonic(1, 0.5, 0.25) == pytest.approx(3 / 7)
    lacking = [row(ROME, 0, name, 1.0) for name in HARMONIC[:2]]
    assert of(lacking).score().empty  # missing is not zero
    assert of([*lacking, row(ROME, 0, HARMONIC[2], np.nan)]).score().empty


# --- pairs -----------------------------------------------------------------------------------------------------------
def test_comparison_is_that_of_differences_case_by_case() -> None:
    random = np.random.default_rng(5)
    hard = random.normal(0, 3, CASES)  # what both share
    a, b = hard + 1.2 + random.normal(0, 0.1, CASES), hard
    rows = [row(ROME, i, "fluency", a[i]) for i in range(CASES)] + [row(ROME, 99, "fluency", 50.0)]
    rows += [row(labels("memit"), i, "fluency", b[i]) for i in reversed(range(CASES))]
    for each in rows:  # subjects in another order than cases
        each["case_id"] = str(200 - int(each["case_id"]))
    found = of(rows).compare("rome", "memit", "fluency", resamples=300, seed=1)
    means = [(a - b)[rows].mean() for rows in draws([subject(i) for i in range(CASES)], 300, 1)]
    np.testing.assert_allclose([found.low, found.high], np.quantile(means, [0.025, 0.975]))
    np.testing.assert_allclose([found.difference, found.mean_a, found.mean_b], [(a - b).mean(), a.mean(), b.mean()])
    assert (found.n, found.subjects, found.only_a, found.only_b) == (CASES, 10, 1, 0)
    apart = of(rows).summary()
    assert found.high - found.low < 0.1 * (apart["high"] - apart["low"]).min()
    assert "difference +1." in str(found)
    assert "1 cases of one alone left out" in str(found)


def test_comparison_averages_seeds_and_finds_controls_and_the_unedited() -> None:
    rows = [row(labels("rome", seed=seed), 0, "fluency", value) for seed, value in enumerate((1.0, 2.0))]
    rows += [row(labels("rome", "random layer"), 0, "fluency", 0.5), row(labels("unedited"), 0, "fluency", 4.0)]
    control = {"method": "rome", "control": "random layer"}
    assert of(rows).compare("rome", control, "fluency").difference == 1.0
    assert of(rows).compare("rome", "unedited", "fluency").difference == -2.5


@pytest.mark.parametrize(
    ("a", "b", "metric", "more", "message"),
    [
        ("rome", "emmet", "fluency", {}, "no case of emmet .* it is known of: rome, memit"),
        ("rome", "memit", "speed", {}, "no case has the metric 'speed'; expected one of fluency"),
        ("memit", "rome", "fluency", {}, "memit has several values of mode: 'single', 'batch'; select one"),
        ("rome", {"method": "memit", "mode": "batch"}, "fluency", {}, "no case in common"),
        ("rome", {"how": 1}, "fluency", {}, "'how' is no label"),
        ("rome", "memit", "fluency", {"stage": "late"}, "stage is 'late'"),
        ("rome", "memit", "fluency", {"level": 95}, "confidence is 95"),
    ],
)
def test_what_cannot_be_compared(a: Any, b: Any, metric: str, more: dict[str, Any], message: str) -> None:
    rows = [row(ROME, 0, "fluency", 1.0), row(labels("memit"), 0, "fluency", 1.0)]
    rows.append(row(labels("memit", mode="batch"), 1, "fluency", 1.0))
    with pytest.raises(TracerError, match=message):
        of(rows).compare(a, b, metric, **more)


# --- retention -------------------------------------------------------------------------------------------------------
def test_retention_of_a_table_by_hand() -> None:
    table = {1: [1], 2: [1, 1], 3: [0, 1, 1], 4: [0, 0, 1, 1]}  # moment: whether edits 0, 1, ... hold
    of_rome = labels("rome", mode="sequential")
    rows = [
        row(of_rome, place, "reliability (generated)", value, position=place, after=after)
        for after, values in table.items()
        for place, value in enumerate(values)
    ]
    rows.append(row(of_rome, 3, "reliability (generated)", 1.0, position=3, after=2))  # before its edit: not counted
    found = of(rows).retention()
    assert found.metric == "reliability (generated)"
    assert found.curve[["after", "mean", "n"]].values.tolist() == [[1, 1, 1], [2, 1, 2], [3, 2 / 3, 3], [4, 0.5, 4]]
    matrix = found.matrix.pivot(index="position", columns="after", values="mean")
    expected = [[1, 1, 0, 0], [np.nan, 1, 1, 0], [np.nan, np.nan, 1, 1], [np.nan, np.nan, np.nan, 1]]
    np.testing.assert_array_equal(matrix, expected)
    chosen = draws([subject(i) for i in range(4)], 2000, 0)
    means = [np.mean([table[4][i] for i in rows]) for rows in chosen]
    last = found.curve.iloc[-1]
    np.testing.assert_allclose([last["low"], last["high"]], np.quantile(means, [0.025, 0.975]))
    assert np.isnan(found.curve["low"][0])  # one subject of four: most draws hold nothing of it


def test_a_sample_of_older_edits_stands_for_all_of_them() -> None:
    # six edits two by two; of the first four only one is asked again at the end, and fails
    found = of(sequence({2: [0, 1], 4: [2, 3], 6: [0, 4, 5]}, value=0.0) + sequence({}))
    rows = found.metrics.assign(value=[1, 1, 1, 1, 0, 1, 1])
    curve = Evaluation.of(metrics=rows).retention().curve
    assert curve[["after", "mean", "n"]].values.tolist() == [[2, 1, 2], [6, (4 * 0 + 2 * 1) / 6, 3]]
    end = Evaluation.of(metrics=rows).summary()
    assert one(end, stage="end")["mean"] == pytest.approx(2 / 6)
    assert one(end, stage="edited")["mean"] == 1


def test_no_retention() -> None:
    with pytest.raises(TracerError, match="nothing was measured after edits of mode 'sequential'"):
        of([row(ROME, 0, "reliability (generated)", 1.0)]).retention()
    with pytest.raises(TracerError, match="have no 'fluency'; expected one of reliability"):
        of(sequence({1: [0]})).retention("fluency")


# --- names -----------------------------------------------------------------------------------------------------------
def test_series_are_named_by_what_tells_them_apart() -> None:
    names = [each.name for each in series_of(evaluation().summary())]
    assert names == [
        "unedited",
        "rome · single",
        "rome · sequential",
        "rome · sequential · after 12 edits",
        "rome · random layer · single",
        "rome · random direction · single",
        "memit · single",
        "memit · sequential",
        "memit · sequential · after 12 edits",
    ]
    several = [labels("rome"), labels("rome", layers="3"), labels("rome", layers="3", seed=1), labels("memit")]
    names = [each.name for each in series_of(pd.DataFrame(several))]
    assert names == ["rome · layers 2 · seed 0", "rome · layers 3 · seed 0", "rome · layers 3 · seed 1", "memit"]
    models = [labels("rome", model=name) for name in ("a/gpt2", "b/gptj")]
    assert [each.name for each in series_of(pd.DataFrame(models))] == ["rome · gpt2", "rome · gptj"]


def test_as_text() -> None:
    text = str(evaluation())
    assert "12 cases about 10 subjects" in text
    line = next(line for line in text.splitlines() if line.startswith(" rome · single"))
    assert line.split()[-2:] == ["–", "12"]  # S has no free generation
    assert "100.0 % [100.0, 100.0]" in line
    assert str(Evaluation.of()) == "nothing was measured yet"


def test_a_ruined_model_is_said_beside_every_number() -> None:
    """The new answer may be the likelier one in a model that says nothing else."""
    made = evaluation()
    rows = made.metrics.to_dict("records")
    for method, ruined in (("memit", 1.0), ("rome", 0.0)):
        of = labels(method)
        rows += [row(of, case, "ruined", ruined) for case in range(CASES)]
    marked = Evaluation.of(metrics=rows)
    summary, scores = marked.summary(), marked.score()
    for frame in (summary, scores):
        single = frame[(frame["mode"] == "single") & (frame["control"] == "")].set_index("method")["ruined"]
        assert (single["memit"] == 1).all() and (single["rome"] == 0).all() and np.isnan(single["unedited"]).all()
    only = marked.summary(metrics=["rewrite success", "reliability (forced)"])
    assert (only[(only["method"] == "memit") & (only["mode"] == "single")]["ruined"] == 1).all()
    lines = str(marked).splitlines()
    ruins = [line for line in lines if "! ruins the model" in line]
    assert len(ruins) == 1 and ruins[0].startswith(" memit") and "100.0 %" in ruins[0]
    table = as_markdown(marked)
    head = table.splitlines()[2].split("|")
    assert "ruined models" in table and "ruined models" not in as_markdown(made)
    place = [title.strip() for title in head].index("ruined models")
    single = [line.split("|") for line in table.split("**sequential**")[0].splitlines() if "|" in line]
    told = {line[1].strip(): line[place].strip() for line in single}
    assert told["memit"].startswith("100.0") and told["rome"].startswith("0.0")
