"""zsRE (Levy et al. 2017) in the layout MEND evaluates it in (Mitchell et al. 2022, arXiv 2110.11309)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from editing.questions.question import Question
from editing.questions.record import EditRecord

from .counterfact import new_question
from .fields import REWORDED, expecting, following, optional, paired, rewrite, several, text

Record = Mapping[str, Any]


def zsre(record: Record, case_id: str, source: str) -> EditRecord:
    """`src` about `subject` should be answered `alt`, not the first of `answers`: as MEND and EasyEdit do.

    `rephrase` is a paraphrase. `loc` with `loc_ans` is an unrelated question, compared with nothing. EasyEdit's
    additions: `portability` (one hop), `alter_subject_question` (the subject by another name) and
    `inverse question` (reverse relation, whose answer is the subject).
    """
    fact = rewrite(text(record, "src"), text(record, "subject"), text(record, "alt"), optional(record, "answers"))
    new, true = fact.target_new, fact.target_true
    asks = following("paraphrase", record, fact, *REWORDED)
    asks += _unrelated(record)
    asks += new_question(record, fact)
    asks += expecting("subject_alias", several(record, "alter_subject_question"), new, true)
    asks += expecting("reverse_relation", several(record, "inverse question"), fact.subject, None)
    return EditRecord(case_id=case_id, source=source, rewrites=(fact,), asks=tuple(asks))


def zsre_true(record: Record, case_id: str, source: str) -> EditRecord:
    """The same file as ROME and MEMIT use it: the new target is the true answer, the first of `answers`.

    The unedited model's answer is unknown. Consequences of `alt` (`portability` and the reverse) do not apply and are
    left out.
    """
    answer = text(record, "answers")
    fact = rewrite(text(record, "src"), text(record, "subject"), answer, None)
    asks = following("paraphrase", record, fact, *REWORDED)
    asks += _unrelated(record, "?")
    asks += expecting("subject_alias", several(record, "alter_subject_question"), answer, None)
    return EditRecord(case_id=case_id, source=source, rewrites=(fact,), asks=tuple(asks))


def _unrelated(record: Record, end: str = "") -> list[Question]:
    pairs = paired(several(record, "loc"), record.get("loc_ans"), "loc_ans")
    return [Question(kind="neighbour", prompt=prompt + end, answers=things) for prompt, things in pairs]
