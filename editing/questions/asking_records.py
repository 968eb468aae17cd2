"""Answers of a model to the questions of evaluation records."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from tracer.engine.acts import Ids
from tracer.engine.follow import follow
from tracer.engine.generation import written_text
from tracer.engine.line import Line
from tracer.errors import MaskedModelError, OneOfSeveral, OtherQuestions, TracerError
from tracer.facts.fact import SLOT, Fact
from tracer.moved import former

from .answer import Answer, CaseAnswers
from .asked import Aligned, Asked, asked_in_tokens
from .asking import answered
from .negation import KIND, denied
from .question import Question
from .record import EditRecord

if TYPE_CHECKING:
    from tracer.model import Model

TEXT_TOKENS = 100  # of a text with its prompt, as published for CounterFact


def ask_records(
    model: Model,
    records: Sequence[EditRecord],
    *,
    generate: bool = True,
    texts: bool = True,
    seed: int = 0,
    max_rows: int | None = None,
    before: Sequence[CaseAnswers] | None = None,
    text_tokens: int = TEXT_TOKENS,
) -> list[CaseAnswers]:
    """Ask a model every question of the records, and their rewrites denied, in their order.

    Equal prompts are run once, whichever questions have them; both answers of a question are read after the one prompt,
    and generation goes on from its keys and values (`tracer.engine.follow`). So an answer does not depend on the other
    questions, except where tokens are equally probable to rounding.

    The model is left as it was found.

    Args:
        model: to ask.
        records: with the questions.
        generate: let the model write its answers.
        texts: let it continue the prompts of `record.generate`, tokens drawn among the five most probable (as
            published) from `seed`, the case and the place of the prompt.
        seed: of the texts.
        max_rows: most rows in a forward; None: by memory.
        before: answers of the unedited model. Questions without an answer of their own take it from there: the ids it
            wrote itself, as far as its answer goes (`tracer.facts.sentences.answer_of`).
        text_tokens: length of a text with its prompt.

    Raises:
        TracerError: a prompt or answer that cannot be tokenised or is too long (the case is named), a `before` of other
            questions, a masked model, logits that are not numbers.
    """
    if not model.causal:
        raise MaskedModelError(
            f"{model.name} is a masked model, which writes nothing after a prompt; use one that does"
        )
    earlier = {} if before is None else {case.case_id: case for case in before}
    aligned = Aligned(model)
    asked: list[list[Asked]] = []
    prompts: list[list[Ids]] = []
    for record in records:
        try:
            old = _old(record, earlier) if before is not None else None
            asked.append(_of_record(aligned, record, generate, old))
            continued = record.generate if texts else ()
            prompts.append([Fact(SLOT, text).align(model).input_ids for text in continued])
        except TracerError as error:
            raise OneOfSeveral(f"case {record.case_id}: {error}") from error
    answers = iter(answered(model, [one for some in asked for one in some], max_rows))
    lines = [
        Line(ids, tokens=max(1, text_tokens - len(ids)), draw=_draws(seed, record.case_id, place))
        for record, some in zip(records, prompts, strict=True)
        for place, ids in enumerate(some)
    ]
    written = iter(follow(model, lines, max_rows=max_rows, description="writing texts"))
    return [
        CaseAnswers(
            record.case_id,
            tuple(next(answers) for _ in some),
            tuple(text + written_text(model, next(written).written) for text in (record.generate if texts else ())),
        )
        for record, some in zip(records, asked, strict=True)
    ]


__getattr__ = former(__name__, {"ask": ask_records})


def _old(record: EditRecord, earlier: dict[str, CaseAnswers]) -> tuple[Answer, ...]:
    """Earlier answers to the questions that will be asked."""
    if record.case_id not in earlier:
        raise OtherQuestions("`before` has no such case; ask the unedited model the same records")
    old = earlier[record.case_id].answers
    own = [(one.kind, one.prompt) for one in record.questions()]
    if [(one.kind, one.prompt) for one in old if one.kind != KIND] != own:
        raise OtherQuestions("`before` was asked other questions; ask the unedited model the same records")
    return old


def _of_record(aligned: Aligned, record: EditRecord, generate: bool, old: tuple[Answer, ...] | None) -> list[Asked]:
    """A record's questions, and its rewrites denied."""
    found = []
    for place, one in enumerate(record.questions()):
        found.append(asked_in_tokens(aligned, one, generate, None if old is None else old[place]))
    for request in record.requests():
        if (text := denied(request, aligned.chat)) is not None:
            new, true = request.target_new, request.target_true
            same = Question(kind="rewrite", prompt=text, answers=((new,),), against=true, space=request.space)
            found.append(replace(asked_in_tokens(aligned, same), kind=KIND))
    return found


def _draws(seed: int, case: str, place: int) -> torch.Generator:
    """A random stream of its own for each text, independent of other texts."""
    digest = hashlib.blake2b(f"{seed}|{place}|{case}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
