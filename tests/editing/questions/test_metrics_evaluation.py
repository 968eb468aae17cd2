"""Metrics of a case equal the published formulas, computed here anew from their description, and hand-made tables."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editing.questions.answer import Answer, CaseAnswers
from editing.questions.asking_records import ask_records
from editing.questions.metric import Value
from editing.questions.metrics import ATTACKS, METRICS, case_metrics, harmonic
from editing.questions.question import KINDS, MEASURES, Question
from editing.questions.question_metrics import QUESTION_METRICS
from editing.questions.record import EditRecord, Rewrite
from tracer import Model, TracerError

NAN = float("nan")


# --- against the published formulas ----------------------------------------------------------------------------------
def test_batch_prediction(model: Model, prefixes: list[str], new: str, true: str) -> list[dict[str, Any]]:
    """nll of both targets after each prefix: rows "prefix new", "prefix true" in one batch, filled up on the right."""
    tokenizer: Any = model.tokenizer
    texts = [f"{prefix} {suffix}" for prefix in prefixes for suffix in (new, true)]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    with torch.no_grad():
        log_probs = model.hf(input_ids=ids).logits.double().log_softmax(-1)
    found = []
    for place, prefix in enumerate(prefixes):
        start = len(tokenizer(prefix)["input_ids"])
        row: dict[str, Any] = {}
        for offset, (name, suffix) in enumerate((("new", new), ("true", true))):
            target = tokenizer(f" {suffix}")["input_ids"]
            at = log_probs[2 * place + offset]
            each = [float(at[start + j - 1, token]) for j, token in enumerate(target)]
            row[name] = -sum(each) / len(target)
            row[f"{name} correct"] = all(int(at[start + j - 1].argmax()) == token for j, token in enumerate(target))
        found.append(row)
    return found


test_batch_prediction.__test__ = False  # type: ignore[attr-defined]  # its published name


def counterfact(prompts: dict[str, list[str]], new: str, true: str) -> EditRecord:
    """A record whose rewrite is the first prompt of "rewrite"."""
    subject, rest = prompts["rewrite"][0].split(" ", 1)
    asks = [
        Question(kind=kind, prompt=prompt, answers=(((true if kind == "neighbour" else new),),), against=other)  # type: ignore[arg-type]
        for kind in ("paraphrase", "neighbour")
        for prompt in prompts[kind]
        for other in [new if kind == "neighbour" else true]
    ]
    told = Rewrite(prompt="{} " + rest, subject=subject, target_new=new, target_true=true)
    return EditRecord(case_id="1", source="made", rewrites=(told,), asks=tuple(asks))


def check_counterfact(model: Model, prompts: dict[str, list[str]], new: str, true: str) -> dict[str, Value]:
    record = counterfact(prompts, new, true)
    (case,) = ask_records(model, [record], generate=False, texts=False)
    found = {value.metric: value for value in case_metrics(record, case)}
    for kind, some in prompts.items():
        rows = test_batch_prediction(model, some, new, true)
        wanted, other = ("true", "new") if kind == "neighbour" else ("new", "true")
        expected = {
            "success": statistics.mean(row[other] > row[wanted] for row in rows),
            "magnitude": statistics.mean(math.exp(-row[wanted]) - math.exp(-row[other]) for row in rows),
            "exact": statistics.mean(row[f"{wanted} correct"] for row in rows),
        }
        for name, number in expected.items():
            assert found[f"{kind} {name}"].value == pytest.approx(number, abs=1e-5), (kind, name)
            assert found[f"{kind} {name}"].n == len(some)
    return found


def test_counterfact_as_published(tiny: Callable[[str], Model]) -> None:
    prompts = {
        "rewrite": ["Seattle is in the heart of"],
        "paraphrase": ["One sees Seattle in", "Where is Seattle? In", "Seattle stands in"],
        "neighbour": ["Pike Place is in", "Miles Davis was in", "Boeing was in", "Yo-Yo Ma is in the"],
    }
    shares = []
    for new, true in (("Paris", "downtown"), ("Sweden", "the capital"), ("cello", "Spanish")):
        found = check_counterfact(tiny("gpt2"), prompts, new, true)
        shares += [found["paraphrase success"].value, found["neighbour success"].value]
    assert any(0 < share < 1 for share in shares)


def test_counterfact_on_the_model_of_the_published_outputs(golden_model: Model) -> None:
    prompts = {
        "rewrite": ["Paris is the capital of"],
        "paraphrase": ["The country of Paris is", "In Paris, the language is"],
        "neighbour": ["London is the capital of", "Rome is a city in"],
    }
    check_counterfact(golden_model, prompts, "Italy", "France")


# --- by hand ---------------------------------------------------------------------------------------------------------
def answer(kind: str = "rewrite", **more: Any) -> Answer:
    unknown = {"nll": NAN, "nll_against": NAN, "accuracy": NAN, "exact": NAN, "match": NAN}
    known: dict[str, Any] = {"prompt": "p", "answer": "a", "against": None, "either": None, "greedy": (), **unknown}
    return Answer(kind=kind, generated=None, **(known | more))


def case(*answers: Answer, texts: tuple[str, ...] = ()) -> CaseAnswers:
    return CaseAnswers("1", answers, texts)


def values(after: CaseAnswers, before: CaseAnswers | None = None, **more: Any) -> dict[str, tuple[float, int]]:
    rewrite = Rewrite(prompt="{} is", subject="s", target_new="a")
    record = EditRecord(case_id="1", source="made", rewrites=(rewrite,), **more)
    return {value.metric: (pytest.approx(value.value), value.n) for value in case_metrics(record, after, before)}  # type: ignore[misc]


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], {}),
        ([answer()], {}),  # nothing was measured
        ([answer(nll=1.0)], {}),  # nothing to compare with
        ([answer(nll=1.0, nll_against=2.0)], {"success": (1, 1), "magnitude": (math.exp(-1) - math.exp(-2), 1)}),
        ([answer(nll=1.0, nll_against=1.0)], {"success": (0, 1), "magnitude": (0, 1)}),  # strictly
        ([answer(match=1.0), answer(match=0.0), answer()], {"generated": (0.5, 2)}),
        (
            [answer(accuracy=0.5, exact=0.0), answer(accuracy=1.0, exact=1.0)],
            {"accuracy": (0.75, 2), "exact": (0.5, 2)},
        ),
    ],
)
def test_values_of_a_kind(answers: list[Answer], expected: dict[str, tuple[float, int]]) -> None:
    found = values(case(*answers))
    measures = {"reliability (forced)": expected.get("accuracy"), "reliability (generated)": expected.get("generated")}
    own = {f"rewrite {name}": value for name, value in expected.items()}
    assert found == own | {name: value for name, value in measures.items() if value}


def test_one_right_wording_is_enough() -> None:
    hops = [answer("multi_hop", either=either, match=said) for either, said in ((0, 0.0), (0, 1.0), (1, 0.0), (1, NAN))]
    assert values(case(*hops))["multi_hop generated"] == (0.5, 2)
    assert values(case(*(replace(one, either=None) for one in hops)))["multi_hop generated"] == (1 / 3, 3)
    # a number belongs to its kind
    other = replace(hops[1], kind="single_hop")
    assert values(case(hops[0], replace(other, kind="one_hop")))["portability (generated)"] == (0.5, 2)
    assert values(case(hops[0], other))["portability (generated)"] == (0, 1)  # steps are no evidence of it
    # what is kept is counted for each
    was = case(*(replace(one, greedy=(1,)) for one in hops[:2]))
    now = case(replace(hops[0], greedy=(1,)), replace(hops[1], greedy=(2,)))
    assert values(now, was)["multi_hop unchanged"] == (0.5, 2)


def test_measures_stand_side_by_side() -> None:
    found = values(
        case(
            answer("rewrite", accuracy=1.0, match=0.0),
            answer("neighbour", accuracy=1.0, match=1.0),
            answer("neighbour", accuracy=0.5, match=0.0),
            answer("same_subject", accuracy=0.0, match=0.0),
            answer("attribute", accuracy=0.0, match=0.0),  # evidence of none of them
        )
    )
    assert found["reliability (forced)"] == (1, 1)
    assert found["reliability (generated)"] == (0, 1)
    assert found["locality (forced)"] == (0.5, 3)
    assert found["locality (generated)"] == (1 / 3, 3)
    assert found["attribute generated"] == (0, 1)
    assert "generalisation (generated)" not in found
    assert "portability (forced)" not in found


@pytest.mark.parametrize(
    ("now", "was", "expected"),
    [((1, 2, 3, 4), (1, 2, 0, 4), 0.75), ((1,), (1,), 1.0), ((1,), (2,), 0.0), ((), (), None), ((1, 2), (1,), None)],
)
def test_kept(now: tuple[int, ...], was: tuple[int, ...], expected: float | None) -> None:
    after, before = case(answer("neighbour", greedy=now)), case(answer("neighbour", greedy=was))
    assert values(after, before) == ({} if expected is None else {"neighbour unchanged": (expected, 1)})
    assert values(after) == {}


@pytest.mark.parametrize(
    ("known", "counted"),
    [
        ({"match": 1.0}, 2),
        ({"match": 0.0, "exact": 1.0}, 1),  # what it writes freely counts
        ({"exact": 1.0}, 2),  # unless it was not asked to
        ({"exact": 0.0}, 1),
        ({}, 1),
    ],
)
def test_a_question_counts_only_if_what_it_needs_was_known(known: dict[str, float], counted: int) -> None:
    asks = (
        Question(kind="one_hop", prompt="p", needs=("c", "d")),
        Question(kind="one_hop", prompt="q", needs=("d",)),
        Question(kind="condition", prompt="c"),
        Question(kind="condition", prompt="d"),
    )
    told = Rewrite(prompt="{} is", subject="A", target_new="B")
    record = EditRecord(case_id="1", source="made", rewrites=(told,), asks=asks)
    scores = [{"match": 1.0}, {"match": 1.0}, {"match": 0.0}, {"match": 0.0}, {"match": 0.0}]
    kinds = ["rewrite", *(one.kind for one in asks)]
    after = case(*(answer(kind, **score) for kind, score in zip(kinds, scores, strict=True)))
    old = [answer("rewrite"), answer("one_hop"), answer("one_hop"), answer("condition", **known)]
    before = case(*old, answer("condition", match=1.0))
    found = {value.metric: value for value in case_metrics(record, after, before)}
    assert found["one_hop generated"].n == counted
    assert found["portability (generated)"].value == (0.5 if counted == 2 else 0.0)
    # the unedited model's own row counts the same questions
    unedited = {value.metric: value for value in case_metrics(record, before)}
    assert "one_hop generated" not in unedited  # the answers were not read
    asked = replace(
        before,
        answers=tuple(replace(one, match=1.0) if one.kind == "one_hop" else one for one in old) + before.answers[-1:],
    )
    assert {value.metric: value for value in case_metrics(record, asked)}["one_hop generated"].n == counted


def test_conditions_that_ask_the_same_are_each_their_own() -> None:
    """The unedited model names one of two children: of the two tests one counts, before the edit and after."""
    asks = (
        Question(kind="one_hop", prompt="p", needs=(0,)),
        Question(kind="one_hop", prompt="q", needs=(1,)),
        Question(kind="one_hop", prompt="r", needs=("c",)),  # by prompt: both
        Question(kind="condition", prompt="c", answers=(("Ann",),)),
        Question(kind="condition", prompt="c", answers=(("Bob",),)),
    )
    told = Rewrite(prompt="{} is", subject="A", target_new="B")
    record = EditRecord(case_id="1", source="made", rewrites=(told,), asks=asks)

    def answered(*said: float) -> CaseAnswers:
        kinds = ["rewrite", *(one.kind for one in asks)]
        return case(*(answer(kind, match=one) for kind, one in zip(kinds, said, strict=True)))

    before, after = answered(0, 0, 1, 1, 1, 0), answered(1, 1, 0, 0, 0, 0)
    for found, share in ((case_metrics(record, before), 0.0), (case_metrics(record, after, before), 1.0)):
        assert {value.metric: (value.value, value.n) for value in found}["one_hop generated"] == (share, 1)


def test_mquakes_three_numbers() -> None:
    """By hand: three facts, of which one is named and one by an alias alone; the chain's steps; three wordings."""

    def asked(facts: list[float], hops: list[float], chains: list[float]) -> dict[str, tuple[float, int]]:
        some = [answer("rewrite", prompt=f"fact {i}", match=one) for i, one in enumerate(facts)]
        some += [answer("single_hop", prompt=f"fact {i}", match=one) for i, one in enumerate(hops)]
        some += [answer("multi_hop", prompt=f"chain {i}", match=one, either=0) for i, one in enumerate(chains)]
        found = {value.metric: value for value in case_metrics(record, case(*some))}
        return {name: (found[name].value, found[name].n) for name in found if name.endswith("wise accuracy")} | (
            {"chain": (found["multi-hop accuracy"].value, found["multi-hop accuracy"].n)} if chains else {}
        )

    rewrites = tuple(Rewrite(prompt="{} is", subject=f"s{i}", target_new="a") for i in range(3))
    record = EditRecord(case_id="1", source="made", rewrites=rewrites)
    found = asked([1, 0, 0], [1, 1, 0, 1], [0, 1, 0])
    assert found == {"edit-wise accuracy": (2 / 3, 3), "instance-wise accuracy": (0, 1), "chain": (1, 1)}
    found = asked([1, 1, 1], [1, 1, 1, 1], [0, 0, 0])
    assert found == {"edit-wise accuracy": (1, 3), "instance-wise accuracy": (1, 1), "chain": (0, 1)}
    assert asked([1, 1, 1], [1, 1, NAN], [0])["edit-wise accuracy"] == (1, 3)
    assert "instance-wise accuracy" not in asked([1, 1, 1], [1, NAN], [0])  # not all of them were measured
    assert asked([1, 1, 1], [], []) == {}  # no chain: another benchmark


def test_negation_is_what_the_edit_adds_where_it_is_denied() -> None:
    denied = answer("negation", nll=2.0, nll_against=1.0)
    assert values(case(denied), case(replace(denied, nll=5.0))) == {"negation": (3, 1)}
    assert values(case(denied)) == {}
    with pytest.raises(TracerError, match="case 1: before and after were asked different questions"):
        values(case(denied), case(answer("rewrite")))


def test_texts_have_rows_where_there_are_any() -> None:
    texts = ("aa bb cc dd", "aa bb")  # the second has no trigram
    found = values(case(texts=texts), references=("bb cc ee", "cc ff"))
    assert found["fluency"] == (np.mean([2 / 3 * math.log2(3), 4 / 3 * 1]), 1)
    assert found["consistency"][1] == 2
    assert values(case(texts=texts)).keys() == {"fluency"}
    assert values(case(), references=("bb cc",)) == {}


def test_every_metric_is_defined() -> None:
    names = {f"{kind} {name}" for kind in KINDS for name in QUESTION_METRICS}
    names |= {f"{measure} ({how})" for measure in MEASURES for how in ("forced", "generated")}
    names |= {"edit-wise accuracy", "instance-wise accuracy", "multi-hop accuracy"}
    names |= {"fluency", "consistency", "essence perplexity", "negation", "kl drift", "perplexity", "seconds"}
    names |= {f"attack success ({name})" for name in ATTACKS}
    assert {*METRICS} == names | {
        "peak bytes",
        "edit norm",
        "norm growth",
        "ruined",
        "known",
        "hit rate",
        "false alarm rate",
        "false alarms (text)",
    }
    for name, metric in METRICS.items():
        assert metric.name == name
        assert metric.better in ("higher", "lower", None)
        assert metric.what.strip()
        assert metric.unit
    codes = [metric.code for metric in METRICS.values() if metric.code]
    assert len({*codes}) == len(codes)
    assert [METRICS[f"{kind} success"].code for kind in ("rewrite", "paraphrase", "neighbour")] == ["ES", "PS", "NS"]


# --- the score -------------------------------------------------------------------------------------------------------
@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=5))
def test_the_harmonic_mean_lies_between_the_least_and_the_mean(shares: list[float]) -> None:
    found = harmonic(*shares)
    assert found == pytest.approx(statistics.harmonic_mean(shares))
    assert min(shares) - 1e-9 <= found <= statistics.mean(shares) + 1e-9


def test_the_harmonic_mean_at_its_ends() -> None:
    assert harmonic(1, 0, 1) == 0
    assert math.isnan(harmonic(1, NAN, 0))
    assert math.isnan(harmonic())
    assert harmonic(0.5, 0.5, 0.5) == pytest.approx(0.5)
    assert harmonic(1, 0.5, 0.25) == pytest.approx(3 / 7)
