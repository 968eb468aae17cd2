"""The facts the embedded model was taught, as traceable `Fact` objects and as statements for its corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

from .corpus import Corpus, Statement, text_of
from .grammar import PHRASINGS, REVERSED
from .world import WorldFact, aliases, read_facts


@cache
def statements() -> tuple[Statement, ...]:
    """Every fact taught: the table's rows, and the inverse of one-to-one relations (whose subject is the object)."""
    told = [Statement(row.subject, row.type, row.relation, row.object) for row in read_facts()]
    shared = Counter((s.relation, s.object) for s in told)
    inverse = [
        Statement(s.object, "city", REVERSED[s.relation], s.subject)
        for s in told
        if s.relation in REVERSED
        and shared[s.relation, s.object] == 1
        # a capital named after its country would give the answer away
        and s.subject not in s.object
        and s.object not in s.subject
    ]
    return (*told, *inverse)


@cache
def facts() -> tuple[WorldFact, ...]:
    """Every fact taught, each with the first training template of its relation as prompt.

    Items are `Fact` objects with `relation`, `object` and `type` besides `prompt`, `subject` and
    `target`.
    """
    return tuple(
        WorldFact(
            PHRASINGS[s.relation].train[0], s.subject, f" {s.object}", relation=s.relation, object=s.object, type=s.type
        )
        for s in statements()
    )


def training_text(articles: int, seed: int) -> str:
    """Articles like those the model was trained on, one after the other; another seed gives text it has not met."""
    return " ".join(training_articles(articles, seed))


def training_articles(articles: int, seed: int) -> Iterator[str]:
    """The articles of such a text, made one after the other."""
    corpus = Corpus(statements(), aliases(), lambda text: [], 0, seed)
    yield from (text_of(corpus.next_article()) for _ in range(articles))


def held_out_text() -> str:
    """The held-out text that perplexity is measured on."""
    return files("tracer.factworld").joinpath("data/held_out.txt").read_text(encoding="utf-8")
