"""Edit records in CounterFact's schema, made from the facts the embedded model knows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from importlib.resources import files
from random import Random
from typing import Any, Literal, get_args

from tracer.errors import UnknownFact

from .corpus import Statement
from .grammar import PHRASINGS, REVERSED, fill

Split = Literal["train", "validation", "test"]
SEED = 0  # of the shipped records, and of the splits

ONE_HOP: dict[str, tuple[str, str]] = {
    "landmark_city": ("city_country", "landmark_country"),
    "headquarters": ("city_country", "company_country"),
    "birthplace": ("city_country", "citizenship"),
}
"""What follows when the object changes: edited relation -> (fact about the new object, relation of the subject it
decides).
A birthplace or seat does not strictly decide a citizenship or a company's country; the world's grammar has no
closer one."""


def records(split: Split | None = None) -> list[dict[str, Any]]:
    """The shipped edit records; all of them, or those of one split (splits share no subject).

    Raises:
        TracerError: an unknown split.
    """
    if split not in (None, "train", "validation", "test"):
        raise UnknownFact(f"split {split!r} does not exist; choose 'train', 'validation' or 'test', or None for all")
    written = files("tracer.factworld").joinpath("data/records.json.gz").read_bytes()
    return [record for record in json.loads(gzip.decompress(written)) if split is None or record["split"] == split]


def fresh_records(split: Split = "train", *, count: int = 10_000, seed: int = 1) -> list[dict[str, Any]]:
    """Edit records drawn anew about the subjects of one split, as many as there are; for editors that are trained.

    Every fact of these subjects is edited in one wording, to another object of its relation. No subject of another
    split is edited, while neighbours may be about any.

    Args:
        split: whose subjects are edited.
        count: of the facts that are drawn from the whole table; those of other splits are left out.
        seed: of the draw.

    Raises:
        TracerError: an unknown split.
    """
    from .facts import statements
    from .world import aliases

    if split not in get_args(Split):
        raise UnknownFact(f"split {split!r} does not exist; choose {', '.join(map(repr, get_args(Split)))}")
    made = make_records(statements(), aliases(), count=count, seed=seed)
    own = [record for record in made if split_of(record["requested_rewrite"]["subject"], SEED) == split]
    return [{**record, "case_id": f"fresh-{seed}-{record['case_id']}", "split": split} for record in own]


def split_of(subject: str, seed: int) -> Split:
    """The split a subject belongs to: 30 % train, 20 % validation, 50 % test."""
    draw = Random(f"{seed}/{subject}").random()
    return "train" if draw < 0.3 else "validation" if draw < 0.5 else "test"


def make_records(
    known: Sequence[Statement],
    aliases: dict[str, tuple[str, ...]],
    *,
    count: int = 1500,
    seed: int = 0,
    neighbours: int = 10,
) -> list[dict[str, Any]]:
    """`count` records about facts drawn with `seed` from `known`; every prompt asks for a fact in `known`.

    Args:
        known: facts the model answers.
        aliases: other names of subjects.
        count: how many records.
        seed: seed of the draw.
        neighbours: most neighbourhood (and attribute) prompts of a record.
    """
    rng = Random(seed)
    by_subject: dict[tuple[str, str], list[Statement]] = {}
    by_object: dict[str, dict[str, list[Statement]]] = {}
    answers: dict[tuple[str, str], str] = {}
    for s in known:
        by_subject.setdefault((s.subject, s.type), []).append(s)
        by_object.setdefault(s.relation, {}).setdefault(s.object, []).append(s)
        answers[s.subject, s.relation] = s.object
    usable = [s for s in known if s.relation not in REVERSED.values() and len(by_object[s.relation]) > 1]
    chosen = rng.sample(usable, min(count, len(usable)))
    result = []
    for case, s in enumerate(sorted(chosen, key=lambda s: (s.type, s.subject, s.relation))):
        phrasing = PHRASINGS[s.relation]
        new = rng.choice(sorted(o for o in by_object[s.relation] if o != s.object))

        def ask(others: list[Statement], n: int, own: str = s.subject) -> list[str]:
            names = [other.subject for other in others if other.subject != own]
            return [
                fill(rng.choice(PHRASINGS[others[0].relation].train), name)
                for name in rng.sample(names, min(n, len(names)))
            ]

        rest = [other for other in by_subject[s.subject, s.type] if other.relation != s.relation]
        prompt = rng.choice([t for t in phrasing.train if not t.endswith("{}")])
        starts = [PHRASINGS[other.relation].train[0] for other in (rest or [s])]
        result.append(
            {
                "case_id": case,
                "split": split_of(s.subject, seed),
                "requested_rewrite": {
                    "prompt": prompt,
                    "subject": s.subject,
                    "target_true": {"str": s.object},
                    "target_new": {"str": new},
                    "relation_id": s.relation,
                },
                "paraphrase_prompts": [fill(t, s.subject) for t in phrasing.held_out],
                "neighborhood_prompts": ask(by_object[s.relation][s.object], neighbours),
                "attribute_prompts": ask(by_object[s.relation][new], neighbours),
                "generation_prompts": [fill(t, s.subject) for t in (*starts[:2], phrasing.train[0], "{} is")],
                "same_subject_prompts": [
                    {
                        "prompt": fill(rng.choice(PHRASINGS[o.relation].train), s.subject),
                        "target": o.object,
                        "relation_id": o.relation,
                    }
                    for o in rest
                ],
                "portability": _portability(s, new, prompt, answers, aliases),
            }
        )
    return result


def _portability(
    s: Statement, new: str, prompt: str, answers: dict[tuple[str, str], str], aliases: dict[str, tuple[str, ...]]
) -> dict[str, list[dict[str, str]]]:
    """Further facts that should hold after the edit, where the world can tell."""
    found: dict[str, list[dict[str, str]]] = {}
    if s.relation in ONE_HOP:
        hop, decided = ONE_HOP[s.relation]
        # only where the answer changes: an answer that stays would be right without any edit
        if (new, hop) in answers and answers.get((s.subject, decided)) not in (None, answers[new, hop]):
            asked = fill(PHRASINGS[decided].train[0], s.subject)
            found["one_hop"] = [{"prompt": asked, "target": answers[new, hop]}]
    if s.relation in REVERSED:
        asked = fill(PHRASINGS[REVERSED[s.relation]].train[0], new)
        found["reverse_relation"] = [{"prompt": asked, "target": s.subject}]
    if s.subject in aliases:
        found["subject_alias"] = [{"prompt": fill(prompt, alias), "target": new} for alias in aliases[s.subject]]
    return found
