"""RippleEdits (Cohen et al. 2023, arXiv 2307.12976): what else should change, and what should not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from .fields import FieldError, Wordings, answers, keeps, text
from .record import Ask, EditRecord, Kind, Rewrite

Record = Mapping[str, Any]
CRITERIA: dict[str, Kind] = {
    "Relation_Specificity": "relation_specificity",
    "Relation_Specifity": "relation_specificity",  # as its description spells it
    "Logical_Generalization": "logical_generalisation",
    "Subject_Aliasing": "subject_alias",
    "Compositionality_I": "composition_one",
    "Compositionality_II": "composition_two",
    "Forgetfulness": "forgetfulness",
}


def ripple(rows: Sequence[Record]) -> Callable[[Record, str, str], EditRecord]:
    """``edit`` is a whole sentence that ends in the new target; the six criteria are lists of tests.

    The file names subject and target by number only. A relation's wording is therefore learnt from the whole file, as
    what its queries about different subjects begin and end with in common (where it is asked about one only: what the
    edits with a previous fact have in common with that), and the sentence is cut by it. A record whose relation stands
    alone is a problem.

    A test with several queries of which one is enough (``test_condition`` OR) has one ``either``. Its
    ``condition_queries`` become questions of kind "condition", which it ``needs``: as published, a test counts only if
    the unedited model answers all of them.
    """
    wordings = _wordings(rows)

    def convert(record: Record, case_id: str, source: str) -> EditRecord:
        fact = _fact(record, wordings)
        asks: list[Ask] = []
        conditions: dict[str, Ask] = {}
        number = 0
        for name, kind in CRITERIA.items():
            for test in record.get(name) or ():
                if not isinstance(test, Mapping):
                    raise FieldError(name, f"holds {str(test)[:60]!r}; expected tests with test_queries")
                asked = _asked(test.get("test_queries"), name)
                known = _asked(test.get("condition_queries"), name) if asked else []
                needs = tuple(dict.fromkeys(prompt for prompt, _ in known))
                for prompt, things in known:
                    conditions.setdefault(prompt, Ask(kind="condition", prompt=prompt, answers=things))
                one = len(asked) > 1 and str(test.get("test_condition", "OR")).upper() == "OR"
                for prompt, things in asked:
                    of = {"needs": needs, "either": number if one else None}
                    asks.append(_ask(kind, prompt, things, fact).model_copy(update=of))
                number += one
        return EditRecord(case_id=case_id, source=source, rewrites=(fact,), asks=(*asks, *conditions.values()))

    return convert


def _asked(queries: Sequence[Record] | None, field: str) -> list[tuple[str, Wordings]]:
    """Prompts and answers of the queries that have an answer."""
    found = [(text(query, "prompt"), _answers(query, field)) for query in queries or ()]
    return [(prompt, things) for prompt, things in found if things]


def _ask(kind: Kind, prompt: str, things: Wordings, fact: Rewrite) -> Ask:
    if kind == "subject_alias":
        return Ask(kind=kind, prompt=prompt, answers=things, against=fact.target_true)
    if kind == "relation_specificity":
        return keeps(kind, prompt, things, fact)
    return Ask(kind=kind, prompt=prompt, answers=things)


def _answers(query: Record, field: str) -> Wordings:
    """One thing per answer, with its aliases; wordings of one character are dropped unless they are digits."""
    things = []
    for answer in query.get("answers") or ():
        if not isinstance(answer, Mapping):
            raise FieldError(field, f"has the answer {str(answer)[:60]!r}; expected value and aliases")
        for thing in answers([answer.get("value"), *(answer.get("aliases") or ())], field):
            kept = tuple(wording for wording in thing if len(wording) > 1 or wording.isdigit())
            things += [kept] if kept else []
    return tuple(things)


def _queries(record: Record) -> Iterator[Record]:
    """The record's plain queries: what a relation says of a subject."""
    for name in CRITERIA:
        for test in record.get(name) or ():
            for query in [*(test.get("test_queries") or ()), *(test.get("condition_queries") or ())]:
                if query.get("query_type", "regular") == "regular" and not query.get("phrase"):
                    yield query


def _wordings(rows: Sequence[Record]) -> dict[str, tuple[str, str]]:
    """Relation -> what its prompts begin and end with, for relations asked about two subjects or more."""
    asked: dict[str, dict[Any, str]] = {}
    edited: dict[str, dict[Any, str]] = {}
    for record in rows:
        for query in _queries(record):
            if query.get("relation") and query.get("prompt"):
                asked.setdefault(query["relation"], {})[query.get("subject_id")] = query["prompt"]
        edit = record.get("edit")
        if isinstance(edit, Mapping) and (former := _former(edit)) and edit.get("relation") and edit.get("prompt"):
            shared = _shared([_plain(edit["prompt"]), former])
            edited.setdefault(edit["relation"], {})[edit.get("subject_id")] = shared[: shared.rfind(" ")].rstrip()
    found = {}
    for relation in {*asked, *edited}:
        prompts = asked.get(relation, {})
        if len(prompts) < 2:
            prompts = {**edited.get(relation, {}), **prompts}
        if len(prompts) > 1:
            found[relation] = _around(list(prompts.values()))
    return found


def _around(prompts: Sequence[str]) -> tuple[str, str]:
    """What texts begin and end with in common, in whole words."""
    begin = _shared(prompts)
    end = _shared([prompt[::-1] for prompt in prompts])[::-1]
    return begin[: begin.rfind(" ") + 1], end[end.find(" ") :] if " " in end else ""


def _fact(record: Record, wordings: Mapping[str, tuple[str, str]]) -> Rewrite:
    edit = record.get("edit")
    if not isinstance(edit, Mapping):
        raise FieldError("edit", f"holds {str(edit)[:60]!r}; expected a mapping with prompt and relation")
    sentence, relation, former = _plain(text(edit, "prompt")), text(edit, "relation"), _former(edit)
    begin, end = wordings.get(relation, ("", ""))
    stop = -1
    if end and sentence.startswith(begin):
        if former is not None:  # both sentences have the prompt: the last place that they share
            stop = _shared([sentence, former]).rfind(f"{end} ", len(begin))
        stop = sentence.find(f"{end} ", len(begin)) if stop < 0 else stop
    if stop <= len(begin):
        raise FieldError("edit.prompt", f"{sentence!r} cannot be cut: nothing else in the file words {relation} so")
    prompt, subject = sentence[: stop + len(end)], sentence[len(begin) : stop]
    true = former[len(prompt) :].strip() if former is not None and former.startswith(f"{prompt} ") else None
    return Rewrite(
        prompt=f"{begin}{{}}{end}",
        subject=subject,
        target_new=sentence[len(prompt) :].strip(),
        target_true=true or None,
        relation=relation,
    )


def _shared(texts: Sequence[str]) -> str:
    """What texts begin with in common."""
    first, last = min(texts), max(texts)  # all others lie between these two
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))]


def _former(edit: Record) -> str | None:
    """The sentence that was true before, without its full stop."""
    before = edit.get("previous_fact", edit.get("original_fact"))
    return _plain(text(before, "prompt")) if isinstance(before, Mapping) else None


def _plain(sentence: str) -> str:
    return sentence.strip().removesuffix(".")
