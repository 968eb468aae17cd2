"""Answers of a model to questions: every prompt is run once, whichever questions have it.

One way to ask for everything that scores an edit: outcomes, the choice of layers, and evaluations differ in what they
let the model write, not in how an answer is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from tracer.engine.acts import Ids
from tracer.engine.answer import own_answer
from tracer.engine.follow import follow
from tracer.engine.generation import ends_after, generate, written_text
from tracer.engine.line import Followed, Line
from tracer.engine.memories import deciding_once
from tracer.errors import OneOfSeveral, TracerError
from tracer.facts.readout import answer_text
from tracer.facts.sentences import answer_of
from tracer.facts.spacing import unspaced

from .answer import NAN, Answer
from .answers import Answers
from .asked import OWN, Aligned, Asked, Place, asked_in_tokens
from .match import says
from .probes import Probes
from .question import Question
from .routing import routes_of

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(eq=False)
class _Read:
    """A prompt's targets by their places in its line, the questions that have it, and what was read."""

    targets: dict[Ids, int] = field(default_factory=dict)
    writers: list[Asked] = field(default_factory=list)
    found: Followed | None = None


def ask(
    model: Model,
    questions: Probes | Iterable[Question],
    *,
    write: Literal["short"] | None = None,
    max_rows: int | None = None,
) -> Answers:
    """Ask a model questions: both answers of each are read after its prompt, teacher forced.

    The model is left as it was found.

    Args:
        model: to ask.
        questions: of any kinds.
        write: "short": also let the model write, about as many tokens as the answers have, where neither of them is
            what greedy decoding writes. None: nothing.
        max_rows: most rows in a forward; None: by memory.

    Raises:
        TracerError: a prompt or answer that cannot be tokenised or is too long (the question is named), logits that are
            not numbers.
    """
    probes = questions if isinstance(questions, Probes) else Probes(tuple(questions))
    aligned = Aligned(model)
    asked = []
    for place, one in enumerate(probes.questions):
        try:
            asked.append(asked_in_tokens(aligned, one))
        except TracerError as error:
            raise OneOfSeveral(f"question {place}: {error}") from error
    with deciding_once(model):
        answers = answered(model, asked, max_rows)
        if write is not None:
            answers = _with_short_texts(model, asked, answers, max_rows)
    return Answers(Probes(probes.questions), tuple(answers), (), model.name)


# --- reading ---------------------------------------------------------------------------------------------------------
def answered(model: Model, asked: Sequence[Asked], max_rows: int | None) -> list[Answer]:
    """The answers; each prompt is run once for all questions that have it.

    Args:
        model: to ask.
        asked: the questions in its tokens.
        max_rows: most rows in a forward; None: by memory.
    """
    lines: dict[Place, _Read] = {}
    for one in asked:
        for place, target in ((one.at, one.target), (one.at_against, one.against)):
            if target:
                targets = lines.setdefault(place, _Read()).targets
                targets.setdefault(target, len(targets))
        if model.causal:
            lines.setdefault(one.prompt, _Read()).writers.append(one)
    with deciding_once(model):
        found = follow(model, [_line(model, place, read) for place, read in lines.items()], max_rows=max_rows)
        routes = routes_of(model, [one.prompt[0] for one in asked])
    for read, followed in zip(lines.values(), found, strict=True):
        read.found = followed
    return [replace(_answer(model, one, lines), routes=each) for one, each in zip(asked, routes, strict=True)]


def _line(model: Model, place: Place, read: _Read) -> Line:
    tokens = max((one.tokens for one in read.writers), default=0)
    lengths = [one.sentences for one in read.writers]
    whole = not tokens or None in lengths
    done = None if whole else ends_after(model, max(length or 1 for length in lengths))
    return Line(place[0], tuple(read.targets), tokens=tokens, done=done, first=place[1])


def _answer(model: Model, one: Asked, lines: dict[Place, _Read]) -> Answer:
    nll = total = accuracy = exact = against = total_against = exact_against = match = NAN
    greedy: Ids = ()
    generated = None
    if one.tokens:
        found = lines[one.prompt].found
        assert found is not None
        ids = found.written[: one.tokens]  # another question may have let it write more
        generated = written_text(model, ids, one.sentences).strip()
        if one.accepted:
            match = float(says(generated, one.accepted, anywhere=one.anywhere))
        else:
            greedy = _own_answer(model, ids)
    if one.target:
        log_probs, best = _at(lines[one.at], one.target)
        hits = best == np.array(one.target)
        nll, total = float(-log_probs.mean()), float(log_probs.sum())
        accuracy, exact = float(hits.mean()), float(hits.all())
        greedy = tuple(best.tolist())
    if one.against:
        log_probs, best = _at(lines[one.at_against], one.against)
        against, total_against = float(-log_probs.mean()), float(log_probs.sum())
        exact_against = float((best == np.array(one.against)).all())
    return Answer(
        kind=one.kind,
        prompt=one.question.prompt,
        answer=one.accepted[0][0].strip() if one.accepted else None,
        against=None if one.question.against is None else one.question.against.strip(),
        either=one.question.either,
        nll=nll,
        nll_against=against,
        accuracy=accuracy,
        exact=exact,
        greedy=greedy,
        generated=generated,
        match=match,
        log_prob=total,
        log_prob_against=total_against,
        exact_against=exact_against,
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


def _at(read: _Read, target: Ids) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of a target's tokens, and the most probable ids at their places."""
    assert read.found is not None
    place = read.targets[target]
    return read.found.log_probs[place], read.found.best[place]


def _with_short_texts(
    model: Model, asked: Sequence[Asked], answers: Sequence[Answer], max_rows: int | None
) -> list[Answer]:
    """The answers with what greedy decoding writes: one of the targets, or about as many tokens as they have."""
    texts: list[str | None] = []
    for one, answer in zip(asked, answers, strict=True):
        targets = ((one.question.answer, answer.exact), (one.question.against, answer.exact_against))
        texts.append(max((str(text).strip() for text, exact in targets if exact == 1), key=len, default=None))
    open_ = [place for place, text in enumerate(texts) if text is None]
    lengths = {place: max(len(asked[place].target), len(asked[place].against)) for place in open_}
    for length in sorted({*lengths.values()}):
        places = [place for place in open_ if lengths[place] == length]
        questions = [asked[place].question for place in places]
        if model.causal:
            prompts = [one.prompt for one in questions]
            written = generate(model, prompts, max_new_tokens=length, sentences=None, max_rows=max_rows)
            found = [answer_of(text.strip()) for text in written]
        else:  # the predictions at the masks of the new target
            found = [answer_text(model, own_answer(model, one.fact(one.new))).strip() for one in questions]
        for place, text in zip(places, found, strict=True):
            texts[place] = text
    return [replace(answer, generated=text) for answer, text in zip(answers, texts, strict=True)]
