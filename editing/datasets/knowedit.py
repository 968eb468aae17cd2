"""KnowEdit (Zhang et al. 2024, arXiv 2401.01286): its facts, and its texts WikiBio and ConvSent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from zlib import crc32

from editing.questions.question import MEASURES, Kind, Question
from editing.questions.record import EditRecord, Rewrite

from .counterfact import flat, flat_fact
from .fields import PROMPT, FieldError, follows, keeps, questions, rewrite, several, text

Record = Mapping[str, Any]
LOCALITY: dict[str, Kind] = {
    **{kind: kind for kind in MEASURES["locality"]},
    "relation_specifity": "relation_specificity",  # as RippleEdits' description spells it
    "distracting_neighbor": "distracting",
    "neighbor": "neighbour",
    "neighborhood": "neighbour",
    "neighbourhood": "neighbour",
}
PORTABILITY: dict[str, Kind] = {
    **{kind: kind for kind in MEASURES["portability"]},
    "reasoning": "one_hop",
    "subject_aliasing": "subject_alias",
    "synonym": "subject_alias",
    "logical_generalization": "logical_generalisation",
}
"""Names of kinds of questions in small letters."""


def knowedit(record: Record, case_id: str, source: str) -> EditRecord:
    """wiki_counterfact, wiki_recent and ZsRE: a fact, and questions by kind under `locality` and `portability`.

    `Reasoning` is one hop. An empty `ground_truth` of the fact is an unknown one (one record of wiki_counterfact). A
    question of locality without an answer asks for the unedited model's answer; one of portability is left out. Where
    questions stand there without a kind, those of portability are one hop, and those of locality another fact of the
    subject if they name it, else a neighbour. Other questions are those of EasyEdit's flat layout (`counterfact.flat`).
    """
    fact = flat_fact(record)
    return EditRecord(
        case_id=case_id, source=source, rewrites=(fact,), asks=(*flat(record, fact), *_asked(record, fact))
    )


def wikibio(record: Record, case_id: str, source: str) -> EditRecord:
    """WikiBio: after the beginning of a passage (`text`) about `concept` the sentence `labels` should follow.

    The record has the whole text, the concept as the subject, the sentence as the new target (there is no old one) and
    the questions of `locality`.
    """
    fact = rewrite(text(record, "text"), text(record, "concept"), text(record, "labels"), None)
    return EditRecord(case_id=case_id, source=source, rewrites=(fact,), asks=tuple(_asked(record, fact)))


def convsent(record: Record, case_id: str, source: str) -> EditRecord:
    """ConvSent (Mitchell et al. 2022, arXiv 2206.06520): an opinion of `ent` is turned positive or negative.

    The file gives texts of both sentiments and no prompt, and does not say which sentiment to write; the published code
    draws it. Here the checksum of `ent` decides, so that it is the same in every run, and the prompts are this
    project's. New target is the first text of that sentiment, old target the first of the other. Further pairs are
    paraphrases in another prompt, so that "paraphrase success" is the share of pairs in which the text of the wanted
    sentiment is the likelier one. All texts of the wanted sentiment are references.
    """
    subject = text(record, "ent")
    sides = [several(record, side) for side in ("pos", "neg")]
    for side, texts in zip(("pos", "neg"), sides, strict=True):
        if not texts:
            raise FieldError(side, "holds no text; expected at least one")
    wanted, other = (tuple(item.strip() for item in texts) for texts in sides[:: 1 - 2 * (crc32(subject.encode()) % 2)])
    fact = Rewrite(prompt="My opinion of {}:", subject=subject, target_new=wanted[0], target_true=other[0])
    asks = tuple(
        Question(kind="paraphrase", prompt=f"Asked about {subject}, I say:", answers=((one,),), against=two)
        for one, two in zip(wanted[1:], other[1:], strict=False)
    )
    return EditRecord(case_id=case_id, source=source, rewrites=(fact,), asks=asks, references=wanted)


def _asked(record: Record, fact: Rewrite) -> list[Question]:
    found = []
    for group, kinds in (("locality", LOCALITY), ("portability", PORTABILITY)):
        for name, kind, listed in _groups(record, group, kinds):
            for prompt, things in questions(listed, name):
                if kind == "forgetfulness":  # the new target is right there too
                    found.append(Question(kind=kind, prompt=prompt, answers=things))
                elif group == "locality":
                    found.append(keeps(kind or _unnamed(prompt, fact), prompt, things, fact))
                elif things:
                    found.append(follows(kind or "one_hop", prompt, things, fact))
    return found


def _groups(record: Record, group: str, kinds: Mapping[str, Kind]) -> Iterator[tuple[str, Kind | None, Any]]:
    """Name for messages, kind (None: not said) and questions."""
    given = record.get(group) or {}
    if isinstance(given, list) or (isinstance(given, Mapping) and not {*PROMPT}.isdisjoint(given)):
        yield group, None, given
        return
    if not isinstance(given, Mapping):
        raise FieldError(group, f"holds {str(given)[:60]!r}; expected a mapping of kinds, or a list of questions")
    for name, listed in given.items():
        kind = kinds.get(str(name).strip().lower().replace(" ", "_"))
        if kind is None:
            raise FieldError(f"{group}.{name}", f"is none of {', '.join(kinds)}")
        yield f"{group}.{name}", kind, listed


def _unnamed(prompt: str, fact: Rewrite) -> Kind:
    return "same_subject" if fact.subject.casefold() in prompt.casefold() else "neighbour"
