"""The questions of the task "factworld", made from the facts the embedded model was trained on.

`python -m editing.ability.questions` writes them anew.
"""

from __future__ import annotations

import json
from itertools import zip_longest
from random import Random
from typing import Any

from .harness import TASKS

COUNT, CHOICES = 400, 4


def questions(seed: int = 0) -> list[dict[str, Any]]:
    """`COUNT` facts with `CHOICES` answers each: the right one, and others of the same relation.

    Each is about a subject that no edit record and no other question is about, in a wording absent from the training
    text; relations take turns, so that all are asked about equally often. The intact model answers all of them: they
    show damage, not small differences.

    Args:
        seed: of the draw of subjects and answers.

    Returns:
        One dict per question: prompt, choices, answer (place of the right one), subject, relation.
    """
    from tracer import factworld

    draw = Random(seed)
    edited = {record["requested_rewrite"]["subject"] for record in factworld.records()}
    taught = factworld.facts()
    objects: dict[str, list[str]] = {}
    right: dict[tuple[str, str], set[str]] = {}
    free: dict[str, list[Any]] = {}
    for fact in taught:
        objects.setdefault(fact.relation, []).append(fact.object)
        right.setdefault((fact.relation, fact.subject), set()).add(fact.object)
        if fact.subject not in edited:
            free.setdefault(fact.relation, []).append(fact)
    for facts in free.values():
        draw.shuffle(facts)
    found: list[dict[str, Any]] = []
    used: set[str] = set()
    turns = [fact for facts in zip_longest(*(free[relation] for relation in sorted(free))) for fact in facts if fact]
    for fact in turns:
        others = sorted({*objects[fact.relation]} - right[fact.relation, fact.subject])
        if len(found) < COUNT and fact.subject not in used and len(others) >= CHOICES - 1:
            used.add(fact.subject)
            choices = [fact.object, *draw.sample(others, CHOICES - 1)]
            draw.shuffle(choices)
            found.append(
                {
                    "prompt": factworld.paraphrases(fact, held_out=True)[0].text,
                    "choices": choices,
                    "answer": choices.index(fact.object),
                    "subject": fact.subject,
                    "relation": fact.relation,
                }
            )
    return found


if __name__ == "__main__":
    lines = [json.dumps(question, ensure_ascii=False) for question in questions()]
    (TASKS / "factworld.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
