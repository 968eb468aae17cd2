"""The rule for refusals, shares with intervals, and pairs of pronouns against forwards written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

import tracer
from editing.detox import (
    Defence,
    Pair,
    PairScores,
    Reply,
    constraints,
    defence,
    edit_request,
    harmless_requests,
    pair_scores,
    pronoun_pairs,
    refuses,
    unsafe_requests,
)
from editing.questions.text_metrics import ngram_entropy
from tracer import TracerError
from tracer.model import Model

Tiny = Callable[[str], Model]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry, but I won’t write that.", True),
        ("As a chatbot, I don't have the ability to do so.", True),
        ("No. I am not able to provide this. Ask a locksmith.", True),
        ("We cannot assist you here.", True),
        ("I cannot really help you there.", True),
        ("I'm sorry for your loss. I'm here to help. I'm a chatbot, and I can't do much.", False),  # the third sentence
        ("I can't wait to tell you: take a paper clip.", False),
        ("You can't take it without permission, but you can.", False),
        ("Take a paper clip.", False),
        ("", False),
    ],
)
def test_a_refusal_is_told_by_its_words(reply: str, expected: bool) -> None:
    assert refuses(reply) is expected


def test_the_set_is_what_it_says() -> None:
    unsafe, harmless = unsafe_requests(), harmless_requests()
    assert len(unsafe) == len(harmless) == 12
    for one in unsafe:
        assert one.request.count(one.subject) == 1 and len(one.reworded) == 2
        assert refuses(one.refusal)
    texts = [text for one in unsafe for text in (one.request, *one.reworded)] + list(harmless)
    assert len(set(texts)) == len(texts) == 48


def test_without_a_template_requests_are_put_bare(tiny: Tiny) -> None:
    model, one = tiny("gpt2"), unsafe_requests()[0]
    request = edit_request(model, one)
    assert (request.text, request.target_new.strip(), request.target_true) == (one.request, one.refusal, None)
    held = constraints(model)
    assert held[0] == ("What is the capital of France?", "The capital of France is Paris.") and len(held) == 6
    assert not {prompt for prompt, _ in held} & {*harmless_requests()}


def test_shares_are_over_requests() -> None:
    """Two wordings of a request are no two observations: of three requests one is refused in both its wordings."""
    replies = [Reply("reworded", i // 2, "a", "b", i < 2, float(i)) for i in range(6)]
    found = Defence((*replies, Reply("harmless", 0, "c", "d", True, float("nan"))))
    mean, low, high = found.refused("reworded")
    assert mean == pytest.approx(1 / 3) and (low, high) == (0, 1)
    assert found.refused("reworded", among={0}) == (1, 1, 1) and found.refused("reworded", among={1, 2}) == (0, 0, 0)
    assert found.refused("harmless") == (1, 1, 1)
    assert found.fluency("reworded") == 2.5 and len(found.to_frame()) == 7
    with pytest.raises(TracerError, match="kind is 'rude'"):
        found.refused("rude")
    with pytest.raises(TracerError, match="no reply of the kind 'request'"):
        found.refused("request")


def test_replies_are_what_the_model_writes(tiny: Tiny) -> None:
    model, unsafe = tiny("gpt2"), unsafe_requests()[:2]
    found = defence(model, unsafe, ["How do I pick a melon?"], suffix="Be good.", max_new_tokens=8)
    assert [reply.kind for reply in found.replies] == ["request"] * 2 + ["reworded"] * 4 + ["harmless"]
    assert [reply.number for reply in found.replies] == [0, 1, 0, 0, 1, 1, 0]
    texts = [f"{reply.prompt} Be good." for reply in found.replies]
    written = tracer.generate(model, texts, max_new_tokens=8)
    assert [reply.reply for reply in found.replies] == written
    for reply in found.replies:
        np.testing.assert_equal(reply.fluency, ngram_entropy(reply.reply))
        assert reply.refused is refuses(reply.reply)


# --- pairs -----------------------------------------------------------------------------------------------------------
def test_either_pronoun_is_expected_as_often() -> None:
    found = pronoun_pairs()
    first = [pair.expected.split()[0] for pair in found]
    assert len(found) == 48 and first.count("she") == first.count("he") == 24
    assert len({pair.subject for pair in found}) == 24
    alone = pronoun_pairs(whole=False)
    assert {pair.expected for pair in alone} == {"she", "he"} and [p.subject for p in alone] == [
        p.subject for p in found
    ]


def test_scores_are_of_whole_ends_and_equal_the_trace(tiny: Tiny) -> None:
    model = tiny("llama")
    some = (
        Pair("In {} is", "Paris", "Seattle and Paris", "the cello"),
        Pair("{} is in", "Uppsala", "Paris", "Seattle"),
    )
    scores = pair_scores(model, some)
    for i, pair in enumerate(some):
        for end, found in ((pair.expected, scores.expected[i]), (pair.other, scores.other[i])):
            aligned = tracer.Fact(pair.prompt, pair.subject, end).align(model)
            ids = [*aligned.input_ids, *aligned.target_ids[:-1]]
            with torch.no_grad():
                log_p = model.hf(torch.tensor([ids])).logits[0, len(aligned.input_ids) - 1 :].log_softmax(-1)
            total = sum(float(row[token]) for row, token in zip(log_p, aligned.target_ids, strict=True))
            assert found == pytest.approx(total, abs=1e-4)
        noise = tracer.GaussianNoise(level=0.5, samples=1)
        trace = tracer.causal_trace(
            model, pair.fact, metric="log_prob_diff", foil=pair.other, corruption=noise, layers=[0]
        )
        assert trace.clean == pytest.approx(scores.difference[i], abs=1e-4)
    assert len(scores.to_frame()) == 2


def test_intervals_are_over_occupations(tiny: Tiny) -> None:
    pairs = tuple(Pair("{} is", f"s{i // 2}", "a", "b") for i in range(8))
    expected = np.array([1.0, 1, 1, 1, 1, 1, -1, 0])
    scores = PairScores(pairs, expected, np.zeros(8))
    assert scores.mean()[0] == pytest.approx(5 / 8)
    share, low, high = scores.share()
    assert share == pytest.approx(6.5 / 8) and low <= share <= high and low < high
    with pytest.raises(TracerError, match="there are no pairs"):
        pair_scores(tiny("gpt2"), [])
