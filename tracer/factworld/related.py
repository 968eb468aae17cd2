"""Facts that belong together: a fact found by name, its paraphrases, its neighbourhood, its subject's other facts."""

from __future__ import annotations

import difflib
from dataclasses import replace

import numpy as np

from tracer.errors import UnknownFact

from .facts import facts
from .grammar import PHRASINGS
from .world import WorldFact


def find(subject: str, relation: str | None = None) -> WorldFact:
    """The fact about `subject` with this relation; without one, the first about it in the table.

    Raises:
        TracerError: FactWorld has no such fact; the message names the nearest there are.
    """
    about = [fact for fact in facts() if fact.subject == subject]
    if not about:
        near = difflib.get_close_matches(subject, {fact.subject for fact in facts()}, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "tracer world searches the names there are"
        raise UnknownFact(f"FactWorld has no fact about {subject!r}; {hint}")
    for fact in about:
        if relation in (None, fact.relation):
            return fact
    known = ", ".join(fact.relation for fact in about)
    raise UnknownFact(f"FactWorld has no fact {relation!r} about {subject!r}; it has {known}")


def paraphrases(fact: WorldFact, held_out: bool = False) -> tuple[WorldFact, ...]:
    """The fact in every wording that training had for its relation, or in those that it never had (`held_out`)."""
    phrasing = PHRASINGS[fact.relation]
    return tuple(replace(fact, prompt=template) for template in (phrasing.held_out if held_out else phrasing.train))


def others_of(fact: WorldFact) -> tuple[WorldFact, ...]:
    """Every other fact about the same subject."""
    return tuple(f for f in facts() if (f.subject, f.type) == (fact.subject, fact.type) and f.relation != fact.relation)


def neighbours(
    fact: WorldFact, n: int | None = 10, *, same_object: bool | None = None, seed: int = 0
) -> tuple[WorldFact, ...]:
    """At most `n` facts of the same relation about other subjects.

    Args:
        fact: the fact.
        n: how many; None: all of them.
        same_object: only those with the same answer (the neighbourhood prompts of CounterFact), or only those with
            another (False); None: both.
        seed: seed of the draw.
    """
    found = [
        other
        for other in facts()
        if other.relation == fact.relation
        and other.subject != fact.subject
        and same_object in (None, other.object == fact.object)
    ]
    if n is None or len(found) <= n:
        return tuple(found)
    chosen = np.random.default_rng(seed).choice(len(found), n, replace=False)
    return tuple(found[i] for i in sorted(chosen))
