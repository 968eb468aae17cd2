"""Fluency, consistency, perplexity and drift equal their formulas, computed by hand or by a plain loop."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from checkpoints import ARCHITECTURES
from hypothesis import given
from hypothesis import strategies as st

from editing.health import drift
from editing.health.drift import Drift, perplexity
from editing.questions.text_metrics import TermWeights, consistency, essence_perplexity, ngram_entropy, words
from tracer import Model, TracerError, load
from tracer.factworld import held_out_text
from tracer.factworld.recipe.evaluate import perplexity as world_perplexity
from tracer.model.soundness import PASSAGE

TEXT = "The Space Needle is in downtown Seattle. Miles Davis plays the trumpet; Yo-Yo Ma plays the cello in Paris."
CAUSAL = [name for name in ARCHITECTURES if name != "bert"]


# --- fluency ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I don't know.", "I do n't know ."),
        ("John’s U.S. cars cost 3.5 or 1,000 (each)", "John ’s U.S . cars cost 3.5 or 1,000 ( each )"),
        ("well-known: O'Brien's, they'll", "well-known : O'Brien 's , they 'll"),
        ("東京 is in 日本。", "東京 is in 日本 。"),
        ("", ""),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert words(text) == expected.split()


@pytest.mark.parametrize(
    ("text", "bigrams", "trigrams"),
    [
        ("a b c", [1, 1], [1]),
        ("a a a a a", [4], [3]),
        ("a b a b a", [2, 2], [2, 1]),  # ab ba ab ba, aba bab aba
        ("the cat sat on the cat", [2, 1, 1, 1], [1, 1, 1, 1]),
    ],
)
def test_entropy_by_hand(text: str, bigrams: list[int], trigrams: list[int]) -> None:
    def entropy(counts: list[int]) -> float:
        return -sum(c / sum(counts) * math.log2(c / sum(counts)) for c in counts)

    expected = (2 / 3 * entropy(bigrams) + 4 / 3 * entropy(trigrams)) / 2
    assert ngram_entropy(text) == pytest.approx(expected)


@given(st.lists(st.sampled_from("abcd"), min_size=3, max_size=40))
def test_entropy_is_highest_where_nothing_is_repeated(letters: list[str]) -> None:
    size = len(letters)
    found = ngram_entropy(" ".join(letters))
    assert -1e-12 <= found <= (2 / 3 * math.log2(size - 1) + 4 / 3 * math.log2(size - 2)) / 2 + 1e-9
    assert ngram_entropy(" ".join(map(str, range(size)))) >= found - 1e-9
    assert ngram_entropy(" ".join("a" for _ in letters)) == 0


def test_too_short_for_an_entropy() -> None:
    assert math.isnan(ngram_entropy("a b"))


# --- consistency -----------------------------------------------------------------------------------------------------
def test_consistency_is_the_cosine_of_weighted_counts() -> None:
    references = ["Paris lies on the Seine", "the mayor of Paris", "a river called Seine"]
    texts = ["Paris and the Seine", "Paris has a mayor"]

    def tokens(text: str) -> list[str]:  # as scikit-learn parts them: two letters at least
        return [word for word in text.lower().split() if len(word) > 1]

    vocabulary = sorted({word for text in references for word in tokens(text)})
    # its smoothed weights: ln((1 + documents) / (1 + those that hold the term)) + 1
    held = [sum(word in tokens(text) for text in references) for word in vocabulary]
    weights = np.log((1 + len(references)) / (1 + np.array(held))) + 1

    def vector(text: str) -> np.ndarray:
        return np.array([tokens(text).count(word) for word in vocabulary]) * weights

    a, b = vector(" ".join(texts)), vector(" ".join(references))
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    assert consistency(texts, references) == pytest.approx(expected)
    assert consistency(texts, references, TermWeights(references)) == pytest.approx(expected)
    more = TermWeights([*references, "the Thames", "the Elbe"])
    assert consistency(texts, references, more) != pytest.approx(expected, abs=1e-3)
    assert consistency(references, references, more) == pytest.approx(1)
    assert math.isnan(consistency(["elsewhere nobody"], references))
    assert math.isnan(consistency(texts, ["?", "a"]))
    assert math.isnan(consistency([], references))
    assert math.isnan(consistency(texts, []))
    with pytest.raises(TracerError, match="no terms to compare"):
        TermWeights(["a", "?"])


@given(st.lists(st.lists(st.sampled_from(["Paris", "paris", "the Seine,", "a", "3,5 km", "Åse's", "—"])), min_size=1))
def test_weights_are_those_of_scikit_learn(texts: list[list[str]]) -> None:
    vectorizers = pytest.importorskip("sklearn.feature_extraction.text", reason="needs scikit-learn")
    documents = [" ".join(parts) for parts in texts]
    try:
        theirs = vectorizers.TfidfVectorizer().fit(documents)
    except ValueError:  # an empty vocabulary
        with pytest.raises(TracerError, match="no terms to compare"):
            TermWeights(documents)
        return
    ours = TermWeights(documents)
    for one in (*documents, "Paris lies on the Seine"):
        a, b = theirs.transform([one, documents[0]])
        expected = (a @ b.T).toarray()[0, 0] if a.nnz and b.nnz else math.nan
        assert ours.similarity(one, documents[0]) == pytest.approx(expected, abs=1e-12, nan_ok=True)


# --- perplexity ------------------------------------------------------------------------------------------------------
def test_essence_perplexity_as_published(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    texts = ["Seattle is in the heart of France.", "Miles Davis was born in Seattle, Sweden."]
    ids = torch.tensor(model.tokenizer(" ".join(texts))["input_ids"])
    for most in (100, 10):
        some = ids[:most]
        assert len(some) <= model.n_ctx
        with torch.no_grad():
            log_probs = model.hf(input_ids=some[None]).logits[0].double().log_softmax(-1)
        found = log_probs[:-1].gather(1, some[1:, None])[:, 0]
        expected = float(torch.exp(-1 / len(some) * found.sum()))
        assert essence_perplexity(model, texts, most) == pytest.approx(expected, rel=1e-5)
    assert math.isnan(essence_perplexity(model, []))
    assert math.isnan(essence_perplexity(model, texts, 1))


def test_perplexity_of_the_embedded_model() -> None:
    model = load()
    text = held_out_text()[:3000]
    assert perplexity(model, text) == pytest.approx(world_perplexity(model, text), rel=1e-5)
    found = Drift.recorded(model).both(model)
    assert found.kl == 0
    assert found.perplexity == pytest.approx(perplexity(model, tokens=drift.TOKENS), rel=1e-9)
    assert 2 < found.perplexity < 6
    assert Drift.recorded(model).before.shape == (2, 128, 4096)


# --- drift -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "bloom"])
def test_drift_equals_a_plain_loop(tiny: Callable[[str], Model], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    seen = Drift.recorded(model, TEXT, tokens=30, width=10)
    weight = model.down_projection(1).weight
    ids = model.tokenizer(TEXT, add_special_tokens=False)["input_ids"][:30]  # type: ignore[index]
    front = model.tokenizer("a")["input_ids"][:1] if name == "llama" else []  # type: ignore[index]
    assert seen.lead == len(front)

    def every() -> tuple[torch.Tensor, float]:
        """Log-probabilities after every token, and the loss of those predicted; a window at a time."""
        rows, losses = [], []
        for start in range(0, 30, 10):
            window = torch.tensor([*front, *ids[start : start + 10]])  # type: ignore[misc]
            with torch.no_grad():
                log_probs = model.hf(input_ids=window[None]).logits[0].double().log_softmax(-1)[len(front) :]
            rows.append(log_probs)
            losses += [-float(log_probs[i, token]) for i, token in enumerate(window[len(front) + 1 :])]
        return torch.cat(rows), float(np.mean(losses))

    before, loss = every()
    assert seen.both(model).perplexity == pytest.approx(math.exp(loss), rel=1e-5)
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)) * 0.3
    old = weight.detach().clone()
    try:
        with torch.no_grad():
            weight += change
        after, loss = every()
        expected = float((before.exp() * (before - after)).sum(-1).mean())
        assert expected > 0.001
        assert seen.measure(model) == pytest.approx(expected, rel=1e-4)
        assert seen.both(model).perplexity == pytest.approx(math.exp(loss), rel=1e-5)
        monkeypatch.setattr(drift, "default_rows", lambda *_: 3)
        assert seen.measure(model) == pytest.approx(expected, rel=1e-4)
    finally:
        with torch.no_grad():
            weight.copy_(old)
    assert seen.measure(model) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "x"}, "the text has 1 tokens"),
        ({"text": TEXT, "tokens": 1}, "tokens is 1; expected at least 2"),
        ({"text": TEXT, "width": 0}, "width is 0; expected at least 2"),
    ],
)
def test_texts_that_cannot_be_measured(tiny: Callable[[str], Model], settings: dict, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        Drift.recorded(tiny("gpt2"), **settings)
    with pytest.raises(TracerError, match="masked model"):
        Drift.recorded(tiny("bert"), TEXT)


def test_another_model_is_read_on_plain_english(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    assert torch.equal(Drift.recorded(model, tokens=64).ids, Drift.recorded(model, PASSAGE, tokens=64).ids)
    assert perplexity(model) == perplexity(model, PASSAGE) != perplexity(model, held_out_text())


def test_several_texts_are_joined_and_short_ones_taken_whole(tiny: Callable[[str], Model]) -> None:
    model = tiny("gpt2")
    assert perplexity(model, ["Paris is", "in France"]) == perplexity(model, "Paris is\nin France")
    assert Drift.recorded(model, TEXT * 2, tokens=10**6, width=10**6).ids.shape[1] == model.n_ctx
