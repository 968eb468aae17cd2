"""Own records: a plain table of prompts, and the files of `save_records`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from editing.questions.question import KINDS, MEASURES, Kind, Question
from editing.questions.record import EditRecord, Rewrite
from tracer.facts.fact import SLOT

from .fields import FieldError, Wordings, answers, optional, text

Record = Mapping[str, Any]
FACT = ("prompt", "subject", "target_new", "target_true", "relation", "question", "space")
TEXTS = ("generate", "references")
PLURALS: dict[str, Kind] = {
    **{kind: kind for kind in KINDS},
    **{f"{kind}s": kind for kind in KINDS},
    "neighbor": "neighbour",
    "neighbors": "neighbour",
    "subject_aliases": "subject_alias",
}
NEW: tuple[Kind, ...] = ("paraphrase", "attribute", "subject_alias")  # answered with the new target


def table(record: Record, case_id: str, source: str) -> EditRecord:
    """The own layout of this project, of JSON, JSON lines and CSV alike.

    `prompt` (with `{}` for the subject, or the subject itself), `subject` and `target_new`; if known `target_true`,
    `relation`, `question`, `case_id`; `space`, true or false, where one before the targets is not as texts are usually
    written. `generate` and `references` hold texts. Questions are columns named as their kind, in one or several:
    `paraphrases`, `neighbours`, `attributes`, `same_subject`, `one_hop`, ...; each holds a text, a list of texts (in
    CSV a JSON list, or parted by " | "), or a list of mappings with `prompt`, `answer` (a text, a list of wordings, or
    a list of such lists), `against` and `either`. `{}` in a question stands for the subject.

    A text alone is answered with the new target as a paraphrase, an attribute or under another name of the subject,
    with the old target as a neighbour, and with the unedited model's answer in the rest of locality. Questions of
    portability need their `answer`.

    Args:
        record: one row.
        case_id: its case id.
        source: source of the records.

    Raises:
        FieldError: an unknown column, which may be a typo.
    """
    known = [*FACT, *TEXTS, *PLURALS, "case_id"]
    for name, _ in record.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = (
                f"did you mean {near[0]!r}" if near else f"expected {', '.join((*FACT, *TEXTS))} or a kind of question"
            )
            raise FieldError(str(name), f"is no field of a record; {hint}")
    fact = Rewrite(
        prompt=text(record, "prompt"),
        subject=text(record, "subject"),
        target_new=text(record, "target_new"),
        target_true=optional(record, "target_true"),
        relation=optional(record, "relation"),
        question=optional(record, "question"),
        space=_truth(record, "space"),
    )
    asks = [
        _ask(PLURALS[name], name, item, fact)
        for name, value in record.items()
        if name in PLURALS
        for item in _list(value)
    ]
    texts = {name: tuple(item for item in _list(record.get(name)) if isinstance(item, str)) for name in TEXTS}
    return EditRecord(
        case_id=case_id,
        source=source,
        rewrites=(fact,),
        asks=tuple(sorted(asks, key=lambda ask: KINDS.index(ask.kind))),
        generate=tuple(item.replace(SLOT, fact.subject) for item in texts["generate"]),
        references=texts["references"],
    )


def dump(record: Record, case_id: str, source: str) -> EditRecord:
    """A record in this project's format: the fields of `EditRecord`."""
    return EditRecord.model_validate({"source": source, **dict(record.items()), "case_id": case_id})


def _truth(record: Record, name: str) -> bool | None:
    value = optional(record, name)
    if value is None:
        return None
    if value.casefold() not in ("true", "false"):
        raise FieldError(name, f"holds {value[:60]!r}; expected true or false")
    return value.casefold() == "true"


def _list(value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        yield from (part.strip() for part in value.split(" | ") if part.strip())
    elif isinstance(value, Mapping):
        yield value
    else:
        yield from value or ()


def _ask(kind: Kind, name: str, item: Any, fact: Rewrite) -> Question:
    new, true = fact.target_new, fact.target_true
    if isinstance(item, str):
        things: Wordings = ()
        against: str | None = new
        if kind in NEW:
            things, against = ((new,),), true
        elif kind == "neighbour":
            things = ((true,),) if true is not None else ()
        elif kind not in MEASURES["locality"]:
            raise FieldError(
                name, f"holds {item[:60]!r}, a question whose answer is not known; write prompt and answer"
            )
        return Question(kind=kind, prompt=item.replace(SLOT, fact.subject), answers=things, against=against)
    if not isinstance(item, Mapping) or not {*item} <= {"prompt", "answer", "answers", "against", "either"}:
        raise FieldError(name, f"holds {str(item)[:60]!r}; expected text, or prompt, answer, against and either")
    return Question(
        kind=kind,
        prompt=text(item, "prompt").replace(SLOT, fact.subject),
        answers=answers(item.get("answer", item.get("answers")), name),
        against=optional(item, "against"),
        either=item.get("either"),
    )
