"""Numbers of texts: fluency, consistency with reference texts, perplexity."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tracer.engine.follow import follow
from tracer.engine.line import Line
from tracer.errors import EvaluationOptionError, TracerError
from tracer.facts.encoding import encode

if TYPE_CHECKING:
    from tracer.model import Model

NGRAMS = {2: 2 / 3, 3: 4 / 3}
"""Weights of the entropies of bigrams and trigrams, as in the published `n_gram_entropy`."""
ESSENCE_TOKENS = 100

_TERM = re.compile(r"\b\w\w+\b")
_CLITICS = r"['’](?:s|m|d|ll|re|ve)\b"
_WORD = re.compile(
    r"\w+(?=n['’]t\b)|n['’]t\b"  # do|n't
    rf"|{_CLITICS}"  # Paris|'s
    rf"|\w+(?:[-./]\w+|,\d+|(?!{_CLITICS})['’]\w+)*"  # U.S, 3.5, 1,000, well-known, O'Brien
    r"|[^\w\s]",
    re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """Words and marks of a text, split much as in the Penn Treebank.

    The published code splits them by nltk's `word_tokenize`, which needs a download; both split contractions and marks,
    and differ in abbreviations and quotation marks.
    """
    return _WORD.findall(text)


def ngram_entropy(text: str) -> float:
    """Fluency of one text: the mean over n of w_n H_n, w from `NGRAMS`, H_n = -sum f log2 f over its n-grams (bits).

    Repetition lowers it (GE of Zhang et al., "Generating Informative and Diverse Conversational Responses", 2018, with
    the weights of Meng et al. 2022, whose tables show it times 100). It grows with the length of the text. Nan for a
    text of fewer than three words.
    """
    found = words(text)
    if len(found) < max(NGRAMS):
        return float("nan")
    entropies = []
    for size, weight in NGRAMS.items():
        counts = Counter(zip(*(found[start:] for start in range(size)), strict=False))
        shares = np.array(list(counts.values())) / counts.total()
        entropies.append(weight * -(shares * np.log2(shares)).sum())
    return float(np.mean(entropies))


class TermWeights:
    """TF-IDF weights of terms: the fewer texts hold a term, the more it counts.

    A term is a word of two letters or more, in lower case; its weight is ln((1 + n) / (1 + those of n texts that hold
    it)) + 1, as scikit-learn's `TfidfVectorizer`, which the published code calls, has it.

    Args:
        texts: documents the weights are learned from; for numbers that can be compared, those of all records. Terms in
            no document do not count.

    Raises:
        TracerError: texts without a word.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        held = Counter(term for text in texts for term in set(_terms(text)))
        if not held:
            raise EvaluationOptionError(
                f"{len(texts)} reference texts give no terms to compare; give texts with words in them"
            )
        self._weights = {term: math.log((1 + len(texts)) / (1 + count)) + 1 for term, count in held.items()}

    def similarity(self, one: str, other: str) -> float:
        """Cosine of two texts' vectors, 0 to 1; nan where one of them has no known term."""
        a, b = self._vector(one), self._vector(other)
        lengths = math.sqrt(sum(x * x for x in a.values())) * math.sqrt(sum(x * x for x in b.values()))
        return sum(a[term] * b[term] for term in a if term in b) / lengths if lengths else float("nan")

    def _vector(self, text: str) -> dict[str, float]:
        counts = Counter(term for term in _terms(text) if term in self._weights)
        return {term: count * self._weights[term] for term, count in counts.items()}


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())


def consistency(texts: Sequence[str], references: Sequence[str], weights: TermWeights | None = None) -> float:
    """Cosine of the TF-IDF vectors of all continuations together and of all reference texts together.

    Measures whether continuations tell of their subject what is told of those for which the new target is true (RS of
    Meng et al. 2022). Nan where there is nothing to compare.

    Args:
        texts: continuations.
        references: texts about subjects for which the new target is true.
        weights: of the terms; None: learned from these reference texts alone.
    """
    try:
        weights = weights or TermWeights(references)
    except TracerError:  # they hold no word
        return float("nan")
    return weights.similarity(" ".join(texts), " ".join(references))


def essence_perplexity(model: Model, texts: Sequence[str], tokens: int = ESSENCE_TOKENS) -> float:
    """Perplexity of texts about the subject: exp(-(1/n) sum_(i=2..n) log p(t_i | t_<i)) over the first n tokens.

    Essence drift of Meng et al. 2022. As published, the sum of n - 1 terms is divided by n. Nan without a text, or
    without a second token.

    Args:
        model: to measure.
        texts: about the subject.
        tokens: n at most.
    """
    joined = " ".join(texts)
    if not joined.strip():
        return float("nan")

    ids = tuple(encode(model.tokenizer, joined)[0][: min(tokens, model.n_ctx)])
    if len(ids) < 2:
        return float("nan")
    (found,) = follow(model, [Line(ids[:1], (ids[1:],))])
    return float(np.exp(-found.log_probs[0].sum() / len(ids)))
