"""MQuAKE (Zhong et al. 2023, arXiv 2305.14795): several facts at once, and questions that chain them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from editing.questions.question import Question
from editing.questions.record import EditRecord

from .counterfact import requested
from .fields import FieldError, Wordings, answers, several, text

Record = Mapping[str, Any]


def mquake(record: Record, case_id: str, source: str) -> EditRecord:
    """`requested_rewrite` lists the facts; `questions` are wordings of one multi-hop question.

    It counts as answered if one wording is answered with `new_answer` or a name of `new_answer_alias` (`either`
    is 0 for all of them); compared with the old `answer`. `new_single_hops` are the steps of the chain after the
    edits, asked by their `cloze` (without one by their `question`), and compared with the old step's answer where
    the question is the same. Steps that are written themselves are asked twice: as a rewrite, and with the step's
    aliases.
    """
    listed = record.get("requested_rewrite")
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise FieldError("requested_rewrite", f"holds {str(listed)[:60]!r}; expected a list of facts")
    facts = tuple(requested(item) for item in listed)
    things = _aliased(record, "new_answer", "new_answer_alias")
    before = text(record, "answer") if record.get("answer") is not None else None
    asks = [
        Question(kind="multi_hop", prompt=prompt, answers=things, against=before, either=0)
        for prompt in several(record, "questions")
    ]
    old = {_prompt(hop): text(hop, "answer") for hop in _hops(record, "single_hops")}
    for hop in _hops(record, "new_single_hops"):
        right = _aliased(hop, "answer", "answer_alias")
        was = old.get(_prompt(hop))
        against = was if was is not None and was not in right[0] else None
        asks.append(Question(kind="single_hop", prompt=_prompt(hop), answers=right, against=against))
    return EditRecord(case_id=case_id, source=source, rewrites=facts, asks=tuple(asks))


def _aliased(record: Record, name: str, aliases: str) -> Wordings:
    return answers([text(record, name), *several(record, aliases)], name)


def _hops(record: Record, name: str) -> list[Record]:
    found = record.get(name) or []
    if not isinstance(found, Sequence) or not all(isinstance(hop, Mapping) for hop in found):
        raise FieldError(name, f"holds {str(found)[:60]!r}; expected mappings with cloze and answer")
    return list(found)


def _prompt(hop: Record) -> str:
    return text(hop, "cloze", "question")
