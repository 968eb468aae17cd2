"""Answers of a model to the questions of evaluation records: every prompt of many records is run once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from tracer.engine.acts import Ids
from tracer.engine.follow import follow
from tracer.engine.generation import ends_after, written_text
from tracer.engine.line import Followed, Line
from tracer.errors import MaskedModelError, OneOfSeveral, OtherQuestions, TracerError
from tracer.facts.chat import chat_of
from tracer.facts.fact import SLOT, Fact
from tracer.facts.readout import answer_text
from tracer.facts.sentences import answer_of, sentences_in
from tracer.facts.spacing import unspaced

from .match import says
from .negation import KIND, denied, is_question
from .record import Ask, EditRecord

if TYPE_CHECKING:
    from tracer.facts.fact import Alignment
    from tracer.model import Model

SPARE = 5  # tokens behind the longest accepted wording, so that the rest of a longer name is seen
SPARE_IN_REPLY = 60  # of a chat model, which may say something else first
SPARE_IN_SENTENCE = 20  # where the answer may stand in a sentence, or several things have to be named
OWN = 12  # most tokens of an answer that is not given: that of the unedited model
TEXT_TOKENS = 100  # of a text with its prompt, as published for CounterFact
NAN = float("nan")


@dataclass(frozen=True)
class Answer:
    """Answer to one question, asked once; missing measurements are nan or None, never zero.

    Attributes:
        kind: one of `record.KINDS`, or "negation": the rewrite's prompt denied (`negation`).
        prompt: the whole text.
        answer: the usual wording of the wanted answer; None: not known yet.
        against: the answer it is compared with; None: not known.
        either: questions of a case with the same number are wordings of one.
        nll: -(1/k) sum log p of the answer's k tokens after the prompt, teacher forced (natural logarithm).
        nll_against: the same of `against`.
        accuracy: share of the answer's tokens that are the most probable at their places, teacher forced.
        exact: 1 where all of them are, else 0.
        greedy: the most probable ids at the answer's places; without an answer, those of the model's own.
        generated: greedy generation after the prompt, to the end of the sentence or some tokens further than the
            longest accepted wording; None: not generated.
        said: 1 where that names everything that should be named, else 0 (`match.says`).
    """

    kind: str
    prompt: str
    answer: str | None
    against: str | None
    either: int | None
    nll: float
    nll_against: float
    accuracy: float
    exact: float
    greedy: tuple[int, ...]
    generated: str | None
    said: float


@dataclass(frozen=True)
class CaseAnswers:
    """Answers of a model to one record.

    Attributes:
        case_id: the record's.
        answers: to `record.questions()` in their order, then to the denied rewrites.
        texts: continuations of `record.generate`, each with its prompt, as published.
    """

    case_id: str
    answers: tuple[Answer, ...]
    texts: tuple[str, ...]


@dataclass(eq=False)
class _Question:
    """A question in the model's tokens."""

    ask: Ask
    kind: str
    prompt: Ids
    accepted: tuple[tuple[str, ...], ...]
    target: Ids = ()
    against: Ids = ()
    tokens: int = 0  # most that are generated
    sentences: int | None = 1  # that are generated; None: a whole reply
    anywhere: bool = False  # whether the answer may stand anywhere in it
    places: dict[Ids, int] = field(default_factory=dict)  # of targets in the prompt's line


def ask(
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
    """Ask the model every question of the records, in their order.

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
    aligned = _Aligned(model)
    asked: list[list[_Question]] = []
    prompts: list[list[Ids]] = []
    for record in records:
        try:
            old = _old(record, earlier) if before is not None else None
            asked.append(_questions(aligned, record, generate, old))
            prompts.append([aligned(text).input_ids for text in record.generate] if texts else [])
        except TracerError as error:
            raise OneOfSeveral(f"case {record.case_id}: {error}") from error
    found = _followed(model, [question for questions in asked for question in questions], max_rows)
    lines = [
        Line(ids, tokens=max(1, text_tokens - len(ids)), draw=_draws(seed, record.case_id, place))
        for record, some in zip(records, prompts, strict=True)
        for place, ids in enumerate(some)
    ]
    written = iter(follow(model, lines, max_rows=max_rows, description="writing texts"))
    return [
        CaseAnswers(
            record.case_id,
            tuple(_answer(model, question, found[question.prompt]) for question in questions),
            tuple(text + written_text(model, next(written).written) for text in (record.generate if texts else ())),
        )
        for record, questions in zip(records, asked, strict=True)
    ]


class _Aligned:
    """Prompts and targets in tokens, each once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.chat = chat_of(model)
        self.known: dict[tuple[str, str | None, bool | None], Alignment] = {}

    def __call__(self, prompt: str, target: str | None = None, space: bool | None = None) -> Alignment:
        if (prompt, target, space) not in self.known:
            # in the slot, so that a text with braces stays as it is
            self.known[prompt, target, space] = Fact(SLOT, prompt, target, space).align(self.model)
        return self.known[prompt, target, space]


def _old(record: EditRecord, earlier: dict[str, CaseAnswers]) -> tuple[Answer, ...]:
    """Earlier answers to the questions that will be asked."""
    if record.case_id not in earlier:
        raise OtherQuestions("`before` has no such case; ask the unedited model the same records")
    old = earlier[record.case_id].answers
    own = [(one.kind, one.prompt) for one in record.questions()]
    if [(one.kind, one.prompt) for one in old if one.kind != KIND] != own:
        raise OtherQuestions("`before` was asked other questions; ask the unedited model the same records")
    return old


def _questions(
    aligned: _Aligned, record: EditRecord, generate: bool, old: tuple[Answer, ...] | None
) -> list[_Question]:
    """A record's questions, and its rewrites denied."""
    found = []
    for place, one in enumerate(record.questions()):
        found.append(_question(aligned, one, generate, None if old is None else old[place]))
    for request in record.requests():
        if (text := denied(request, aligned.chat)) is not None:
            new, true = request.target_new, request.target_true
            same = Ask(kind="rewrite", prompt=text, answers=((new,),), against=true, space=request.space)
            found.append(_question(aligned, same, False, None, KIND))
    return found


def _question(aligned: _Aligned, one: Ask, generate: bool, old: Answer | None, kind: str | None = None) -> _Question:
    question = _Question(one, kind or one.kind, aligned(one.prompt).input_ids, one.answers)
    if one.against is not None:
        question.against = aligned(one.prompt, one.against, one.space).target_ids
    if one.answer is not None:
        question.target = aligned(one.prompt, one.answer, one.space).target_ids
    elif old is not None and old.greedy:
        question.target = old.greedy  # the ids themselves, so that the same answer is the same tokens
        question.accepted = ((answer_text(aligned.model, old.greedy).strip(),),)
    replies = aligned.chat is not None and aligned.chat.turn(one.prompt) is not None
    question.anywhere = replies or is_question(one.prompt)
    if generate:
        question.tokens = _room(aligned, question, SPARE_IN_REPLY if replies else None)
        # an answer may hold marks itself ("Yahoo! Inc.")
        wordings = [sentences_in(text) for thing in one.answers for text in thing]
        question.sentences = None if replies and wordings else max(wordings, default=1)
    return question


def _room(aligned: _Aligned, question: _Question, spare: int | None) -> int:
    """Number of tokens generated; spare: behind the longest answer, None: by the question."""
    given = question.ask.answers
    if not given:
        return len(question.target) + (spare or SPARE) if question.target else OWN
    # the tokenizer alone: some of many wordings may be such as it cannot write after the prompt
    longest = [aligned.model.tokenizer(f" {max(one, key=len).strip()}", add_special_tokens=False) for one in given]
    spare = spare or (SPARE_IN_SENTENCE if question.anywhere or len(given) > 1 else SPARE)
    return sum(len(each["input_ids"]) for each in longest) + spare  # type: ignore[arg-type]


def _followed(model: Model, questions: Sequence[_Question], max_rows: int | None) -> dict[Ids, Followed]:
    """Continuations of each prompt, once for all questions that have it."""
    of: dict[Ids, list[_Question]] = {}
    for question in questions:
        of.setdefault(question.prompt, []).append(question)
    lines = []
    for prompt, some in of.items():
        targets = dict.fromkeys(ids for one in some for ids in (one.target, one.against) if ids)
        places = {ids: place for place, ids in enumerate(targets)}
        for one in some:
            one.places = places
        tokens = max(one.tokens for one in some)
        lengths = [one.sentences for one in some]
        whole = not tokens or None in lengths
        done = None if whole else ends_after(model, max(length or 1 for length in lengths))
        lines.append(Line(prompt, tuple(targets), tokens=tokens, done=done))
    return dict(zip(of, follow(model, lines, max_rows=max_rows), strict=True))


def _answer(model: Model, question: _Question, found: Followed) -> Answer:
    one = question.ask
    nll = accuracy = exact = against = said = NAN
    greedy: Ids = ()
    generated = None
    if question.tokens:
        ids = found.written[: question.tokens]  # another question may have let it write more
        generated = written_text(model, ids, question.sentences).strip()
        if question.accepted:
            said = float(says(generated, question.accepted, anywhere=question.anywhere))
        else:
            greedy = _own_answer(model, ids)
    if question.target:
        place = question.places[question.target]
        hits = found.best[place] == np.array(question.target)
        nll, accuracy, exact = float(-found.log_probs[place].mean()), float(hits.mean()), float(hits.all())
        greedy = tuple(found.best[place].tolist())
    if question.against:
        against = float(-found.log_probs[question.places[question.against]].mean())
    answer = question.accepted[0][0].strip() if question.accepted else None
    other = None if one.against is None else one.against.strip()
    return Answer(
        question.kind,
        one.prompt,
        answer,
        other,
        one.either,
        nll,
        against,
        accuracy,
        exact,
        greedy,
        generated,
        said,
    )


def _own_answer(model: Model, ids: Ids) -> Ids:
    """The ids of a model's own answer as far as it goes, one at least; of one without an end its whole words."""
    if len(ids) < 2:
        return ids
    text = answer_text(model, ids)
    answer = answer_of(text).rstrip()
    if answer != text.rstrip():
        return next((ids[:n] for n in range(1, len(ids)) if len(_text(model, ids[: n + 1])) > len(answer)), ids)
    if len(ids) < OWN or unspaced(answer[-1:]):
        return ids
    begun = [n for n in range(1, len(ids)) if answer_text(model, ids[n:]).startswith(" ")]
    return ids[: begun[-1]] if begun else ids


def _text(model: Model, ids: Ids) -> str:
    return answer_text(model, ids).rstrip()


def _draws(seed: int, case: str, place: int) -> torch.Generator:
    """A random stream of its own for each text, independent of other texts."""
    digest = hashlib.blake2b(f"{seed}|{place}|{case}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
