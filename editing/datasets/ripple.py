"""RippleEdits (Cohen et al. 2023, arXiv 2307.12976): facts that should change, and that should not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from editing.questions.question import Kind, Question
from editing.questions.record import EditRecord, Rewrite

from .fields import FieldError, Wordings, answers, keeps, text
from .sentences import Wording, prompt_of, shared, subject_of, wordings

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
    """`edit` is a whole sentence that ends in the new target; the six criteria are lists of tests.

    The file names subject and target by number only, so that the sentence has to be cut (`sentences`), for which
    the whole file is read: questions about different subjects show the wording of a relation. A record
    whose sentence cannot be cut is a problem.

    A test with several queries of which one is enough (`test_condition` OR) has one `either`. Its
    `condition_queries` become questions of kind "condition", which it `needs`, each with the answers it has there:
    as published, a test counts only if the unedited model answers all of them.
    """
    known = wordings(*_prompts(rows))

    def convert(record: Record, case_id: str, source: str) -> EditRecord:
        fact = _fact(record, known)
        asks: list[Question] = []
        conditions: dict[tuple[str, Wordings], int] = {}
        number = 0
        for name, kind in CRITERIA.items():
            for test in record.get(name) or ():
                if not isinstance(test, Mapping):
                    raise FieldError(name, f"holds {str(test)[:60]!r}; expected tests with test_queries")
                asked = _asked(test.get("test_queries"), name)
                needed = _asked(test.get("condition_queries"), name) if asked else []
                needs = tuple(dict.fromkeys(conditions.setdefault(pair, len(conditions)) for pair in needed))
                one = len(asked) > 1 and str(test.get("test_condition", "OR")).upper() == "OR"
                for prompt, things in asked:
                    of = {"needs": needs, "either": number if one else None}
                    asks.append(_ask(kind, prompt, things, fact).model_copy(update=of))
                number += one
        asks += [Question(kind="condition", prompt=prompt, answers=things) for prompt, things in conditions]
        return EditRecord(case_id=case_id, source=source, rewrites=(fact,), asks=tuple(asks))

    return convert


def _asked(queries: Sequence[Record] | None, field: str) -> list[tuple[str, Wordings]]:
    """Prompts and answers of the queries that have an answer."""
    found = [(text(query, "prompt"), _answers(query, field)) for query in queries or ()]
    return [(prompt, things) for prompt, things in found if things]


def _ask(kind: Kind, prompt: str, things: Wordings, fact: Rewrite) -> Question:
    if kind == "subject_alias":
        return Question(kind=kind, prompt=prompt, answers=things, against=fact.target_true)
    if kind == "relation_specificity":
        return keeps(kind, prompt, things, fact)
    return Question(kind=kind, prompt=prompt, answers=things)


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
    """All its queries, of tests and of conditions."""
    for name in CRITERIA:
        for test in record.get(name) or ():
            if isinstance(test, Mapping):
                for query in (*(test.get("test_queries") or ()), *(test.get("condition_queries") or ())):
                    if isinstance(query, Mapping) and isinstance(query.get("prompt"), str):
                        yield query


def _prompts(rows: Sequence[Record]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Relation -> prompts of queries, one per name of a subject; and prompts of edits whose former fact is given."""
    asked: dict[str, dict[Any, str]] = {}
    edited: dict[str, list[str]] = {}
    for record in rows:
        edit = record.get("edit")
        for query in _queries(record):
            relation, kind = query.get("relation"), query.get("query_type", "regular")
            if relation and kind == "regular" and not query.get("phrase"):
                asked.setdefault(relation, {})[query.get("subject_id")] = query["prompt"]
        if isinstance(edit, Mapping) and (former := _former(edit)) and edit.get("relation") and edit.get("prompt"):
            both = shared([_plain(edit["prompt"]), former])
            edited.setdefault(edit["relation"], []).append(both[: both.rfind(" ")].rstrip())
    return {relation: [*prompts.values()] for relation, prompts in asked.items()}, edited


def _fact(record: Record, known: Mapping[str, Wording]) -> Rewrite:
    edit = record.get("edit")
    if not isinstance(edit, Mapping):
        raise FieldError("edit", f"holds {str(edit)[:60]!r}; expected a mapping with prompt and relation")
    sentence, relation, former = _plain(text(edit, "prompt")), text(edit, "relation"), _former(edit)
    queries = [*_queries(record)]
    targets = [name for query in queries if edit.get("target_id") in _ids(query) for name in _names(query)]
    prompt = prompt_of(sentence, former, known.get(relation), targets)
    if prompt is not None:
        same = [query["prompt"] for query in queries if _is_other(query, edit)]
        place = subject_of(prompt, known.get(relation), same)
    if prompt is None or place is None or prompt == sentence:
        raise FieldError("edit.prompt", f"{sentence!r} cannot be cut into prompt, subject and target")
    true = former[len(prompt) :].strip() if former is not None and former.startswith(f"{prompt} ") else None
    return Rewrite(
        prompt=f"{prompt[: place[0]]}{{}}{prompt[place[1] :]}",
        subject=prompt[slice(*place)],
        target_new=sentence[len(prompt) :].strip(),
        target_true=true or None,
        relation=relation,
    )


def _is_other(query: Record, edit: Record) -> bool:
    """Whether a query asks another fact of the edited subject."""
    regular = query.get("query_type", "regular") == "regular" and not query.get("phrase")
    return regular and query.get("subject_id") == edit.get("subject_id") and query.get("relation") != edit["relation"]


def _ids(query: Record) -> Sequence[Any]:
    return query.get("target_ids") or ()


def _names(query: Record) -> list[str]:
    """Every name of a query's answers, where it has one answer."""
    answers = [answer for answer in query.get("answers") or () if isinstance(answer, Mapping)]
    names = [[answer.get("value"), *(answer.get("aliases") or ())] for answer in answers]
    return [name for name in names[0] if isinstance(name, str)] if len(names) == 1 else []


def _former(edit: Record) -> str | None:
    """The sentence that was true before, without its full stop."""
    before = edit.get("previous_fact", edit.get("original_fact"))
    return _plain(text(before, "prompt")) if isinstance(before, Mapping) else None


def _plain(sentence: str) -> str:
    return sentence.strip().removesuffix(".")
