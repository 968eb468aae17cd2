"""Metrics of an edited model against the published evaluation's own numbers, before the edit and after it."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import goldens
import numpy as np
import pytest
import torch
from goldens import Arrays
from numpy.testing import assert_allclose

from editing.edits.edit import Factors
from editing.edits.weights import applied
from editing.methods.ft import whole_factors
from editing.questions.answer import CaseAnswers
from editing.questions.asking_records import ask_records
from editing.questions.metrics import case_metrics, harmonic
from editing.questions.question import Question
from editing.questions.record import EditRecord, Rewrite
from editing.questions.text_metrics import TermWeights, essence_perplexity, ngram_entropy
from tracer.model import Model

CLOSE = 1e-5
KINDS = ("rewrite", "paraphrase", "neighbour")
Answered = dict[str, list[CaseAnswers]]


@pytest.fixture(scope="module")
def theirs(golden: Path) -> Arrays:
    return goldens.arrays(golden / "edits" / "evaluation.npz")


@pytest.fixture(scope="module")
def told(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "edits" / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def records(told: dict[str, Any]) -> list[EditRecord]:
    return [_record(str(place), each) for place, each in enumerate(told["records"])]


def _record(case: str, each: dict[str, Any]) -> EditRecord:
    new, true = each["target_new"], each["target_true"]
    asks = [Question(kind="paraphrase", prompt=each["paraphrase"], answers=((new,),), against=true)]
    asks += [Question(kind="neighbour", prompt=text, answers=((true,),), against=new) for text in each["neighbours"]]
    told = Rewrite(prompt=each["prompt"], subject=each["subject"], target_new=new, target_true=true)
    return EditRecord(case_id=case, source="made", rewrites=(told,), asks=tuple(asks))


@pytest.fixture(scope="module")
def answered(golden: Path, golden_model: Model, records: list[EditRecord]) -> Answered:
    """Answers of the golden model, and of it with the published changes for two requests."""
    before = ask_records(golden_model, records, generate=False, texts=False)
    with applied(golden_model, _published_change(golden, golden_model)):
        after = ask_records(golden_model, records, generate=False, texts=False)
    return {"before": before, "after": after}


def _published_change(golden: Path, model: Model) -> Factors:
    """The changes of requests 1 and 2 in the file of knowledge neurons, added together."""
    kept = goldens.arrays(golden / "edits" / "kn.npz")
    changes: dict[str, np.ndarray] = {}
    for name in kept:
        place, part, *layer = name.split(".")
        if part == "rows" and place != "0":
            down = model.down_projection(int(layer[0]))
            change = changes.setdefault(down.name, np.zeros(tuple(down.weight.shape), np.float32))
            change[kept[name]] += kept[f"{place}.change.{layer[0]}"]
    return {name: whole_factors(torch.tensor(change)) for name, change in changes.items()}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_both_answers(when: str, kind: str, theirs: Arrays, answered: Answered) -> None:
    new, true = (theirs[f"{when}.nll_{which}.{kind}"] for which in ("new", "true"))
    for row, case in enumerate(answered[when]):
        own = [one for one in case.answers if one.kind == kind]
        found = np.array([[one.nll, one.nll_against] for one in own])
        expected = np.column_stack([true[row], new[row]] if kind == "neighbour" else [new[row], true[row]])
        assert_allclose(found, expected, rtol=CLOSE, atol=CLOSE)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("kind", "name"), [("rewrite", "rewrite_acc"), ("paraphrase", "rephrase_acc")])
def test_shares_of_tokens(
    when: str, kind: str, name: str, theirs: Arrays, answered: Answered, records: list[EditRecord]
) -> None:
    found = _metric(f"{kind} accuracy", records, answered[when])
    assert_allclose(found, theirs[f"{when}.{name}"], atol=CLOSE)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        (code + measure[0].upper(), f"{kind} {measure}")
        for code, kind in zip("EPN", KINDS, strict=True)
        for measure in ("success", "magnitude")
    ],
)
def test_success_and_magnitude(
    name: str, metric: str, theirs: Arrays, answered: Answered, records: list[EditRecord]
) -> None:
    assert_allclose(_metric(metric, records, answered["after"]), theirs[name], atol=CLOSE)


def test_the_score(theirs: Arrays, answered: Answered, records: list[EditRecord]) -> None:
    shares = [mean(_metric(f"{kind} success", records, answered["after"])) for kind in KINDS]
    assert harmonic(*shares) == pytest.approx(float(theirs["S"]), abs=CLOSE)
    assert len({round(share, 3) for share in shares}) > 1


def test_locality(theirs: Arrays, answered: Answered, records: list[EditRecord]) -> None:
    """Which of a record's neighbours are kept, and their share as it is reported."""
    for row, (old, new) in enumerate(zip(answered["before"], answered["after"], strict=True)):
        pairs = [(a, b) for a, b in zip(old.answers, new.answers, strict=True) if a.kind == "neighbour"]
        kept = [np.mean(np.array(a.greedy) == np.array(b.greedy)) for a, b in pairs]
        assert_allclose(kept, theirs["locality_acc"][row], atol=CLOSE)
    reported = _metric("neighbour unchanged", records, answered["after"], answered["before"])
    assert_allclose(reported, theirs["locality_acc"].mean(1), atol=CLOSE)
    assert 0 < np.mean(reported) < 1


def _metric(
    name: str, records: list[EditRecord], after: list[CaseAnswers], before: list[CaseAnswers] | None = None
) -> list[float]:
    olds = before or [None] * len(after)
    values = [case_metrics(*each) for each in zip(records, after, olds, strict=True)]
    return [next(value.value for value in some if value.metric == name) for some in values]


# --- of texts --------------------------------------------------------------------------------------------------------
# nltk leaves the mark at an abbreviation and writes an opening quotation mark as two
OTHERWISE = ("Mr.", "U.S.", "...", '"')


def test_entropy_of_ngrams(theirs: Arrays, told: dict[str, Any]) -> None:
    difference = np.abs([ngram_entropy(text) for text in told["texts"]] - theirs["ngram_entropy"])
    plain = [not any(mark in text for mark in OTHERWISE) for text in told["texts"]]
    assert sum(plain) == 4
    assert difference[plain].max() < CLOSE
    assert difference.max() < 0.2
    assert np.ptp(theirs["ngram_entropy"]) > 1


def test_similarity_of_term_weights(theirs: Arrays, told: dict[str, Any]) -> None:
    weights = TermWeights(told["texts"])
    found = [[weights.similarity(one, other) for other in told["texts"]] for one in told["texts"]]
    assert_allclose(found, theirs["tfidf_similarity"], atol=CLOSE)


def test_perplexity_of_a_text(theirs: Arrays, told: dict[str, Any], golden_model: Model) -> None:
    found = essence_perplexity(golden_model, [told["perplexity_text"]], told["perplexity_tokens"])
    assert found == pytest.approx(float(theirs["perplexity"]), rel=CLOSE)
