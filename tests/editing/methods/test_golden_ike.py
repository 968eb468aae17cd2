"""IKE against the published code, on its demonstrations: neighbours, contexts to the character, and scores."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import goldens
import numpy as np
import pytest
import torch

from editing.datasets import records_of
from editing.memories import Memory, Router, attached
from editing.memories.lines import packed
from editing.methods.routed.demonstrations import TEMPLATE, Demonstration, nearest, original, own_copy, pooled
from editing.questions.record import EditRecord
from tracer import Model
from tracer.engine import Line
from tracer.engine.follow import follow
from tracer.facts.encoding import encode
from tracer.facts.spacing import spaced


@pytest.fixture(scope="module")
def theirs(golden: Path) -> goldens.Arrays:
    return goldens.arrays(golden / "retrieval" / "ike.npz")


@pytest.fixture(scope="module")
def records(theirs: goldens.Arrays) -> dict[str, list[EditRecord]]:
    return {name: records_of(some) for name, some in json.loads(str(theirs["records"])).items()}


def fact_of(record: EditRecord) -> str:
    request = record.requests()[0]
    return request.text + request.target_new


def contexts(theirs: goldens.Arrays, records: dict[str, list[EditRecord]]) -> list[list[str]]:
    demos, draw = [Demonstration.of(one) for one in records["demos"]], Random(int(theirs["seed"]))
    found = []
    for test, places in zip(records["tests"], theirs["neighbours"], strict=True):
        front = original([demos[place] for place in places], (1, 3, 4), draw)
        found.append([*front, own_copy(fact_of(test))])
    return found


def test_neighbours_and_contexts_are_the_published_ones(
    theirs: goldens.Arrays, records: dict[str, list[EditRecord]]
) -> None:
    demos = torch.tensor(theirs["demo_embeddings"])
    for query, expected in zip(torch.tensor(theirs["query_embeddings"]), theirs["neighbours"], strict=True):
        assert nearest(query, demos, int(theirs["k"])) == expected.tolist()
    found = ["".join(front) for front in contexts(theirs, records)]
    assert found == [str(each) for each in theirs["contexts"]]


def test_easyedit_takes_the_nearest_sentences_of_a_pool(
    theirs: goldens.Arrays, records: dict[str, list[EditRecord]]
) -> None:
    sentences = [text for one in records["demos"] for text in Demonstration.of(one).three()]
    assert sentences == [str(each) for each in theirs["ee_sentences"]]
    pool, count = torch.tensor(theirs["ee_embeddings"]), int(theirs["ee_k"])
    for query, places, context in zip(
        torch.tensor(theirs["ee_query"]), theirs["ee_indices"], theirs["ee_context"], strict=True
    ):
        assert nearest(query, pool, count) == places.tolist()
        assert "".join(pooled(sentences, pool, query, count)) == str(context)


def memory_of(model: Model, test: EditRecord, front: list[str]) -> Memory:
    """One whose entry is in front of every question, as the published evaluation has it."""
    request = test.requests()[0]
    line: dict[str, Any] = {"prompt": request.text, "ids": [1], "target": request.target_new, "subject": ""}
    router = Router("nearest", "random")
    tensors = {"keys": torch.zeros(1, 0), "about": packed([{**line, "text": fact_of(test), "front": front}])}
    header = {"router": router.header(), "template": TEMPLATE, "reserve": 0}
    return Memory("ike", "text", model.weights_fingerprint(), tensors, header)


def scores(model: Model, prompt: str, answer: str) -> tuple[float, float]:
    """Perplexity of an answer behind a prompt, and the share of its tokens that are the most probable."""
    ids = tuple(encode(model.tokenizer, prompt)[0])
    whole = tuple(encode(model.tokenizer, prompt + spaced(prompt, answer.strip()))[0])
    target = whole[len(ids) :]
    (found,) = follow(model, [Line(ids, (target,))])
    right = np.mean(np.asarray(found.best[0].tolist()) == np.asarray(target))
    return float(np.exp(-found.log_probs[0].mean())), float(right)


def test_scores_are_the_published_ones(
    theirs: goldens.Arrays, records: dict[str, list[EditRecord]], golden_model: Model
) -> None:
    for row, (test, front) in enumerate(zip(records["tests"], contexts(theirs, records), strict=True)):
        request, asks = test.requests()[0], test.asks
        new, true = request.target_new, request.target_true or ""
        paraphrase = next(one.prompt for one in asks if one.kind == "paraphrase")
        neighbour = next(one.prompt for one in asks if one.kind == "neighbour")
        with attached(golden_model, memory_of(golden_model, test, front[-int(theirs["scored_demos"]) :])):
            asked = [(request.text, new), (request.text, true), (paraphrase, new), (paraphrase, true)]
            found = [scores(golden_model, *each)[0] for each in [*asked, (neighbour, true), (neighbour, new)]]
        found += [scores(golden_model, request.text, each)[0] for each in (new, true)]
        assert np.allclose(np.log(found), np.log(theirs["ppl"][row]), rtol=1e-3, atol=1e-3)
        context = str(theirs["ee_context"][row])
        with attached(golden_model, memory_of(golden_model, test, [context])):
            for prompt, expected in ((request.text, "ee_rewrite"), (paraphrase, "ee_rephrase")):
                assert scores(golden_model, prompt, new)[1] == theirs[expected][row]
