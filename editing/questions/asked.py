"""Questions in a model's tokens: where each answer is read, and how much the model may write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tracer.engine.acts import Ids
from tracer.facts.chat import chat_of
from tracer.facts.readout import answer_text
from tracer.facts.sentences import sentences_in

from .answer import Answer
from .negation import is_question
from .question import Question

if TYPE_CHECKING:
    from tracer.facts.fact import Alignment
    from tracer.model import Model

SPARE = 5  # tokens behind the longest accepted wording, so that the rest of a longer name is seen
SPARE_IN_REPLY = 60  # of a chat model, which may say something else first
SPARE_IN_SENTENCE = 20  # where the answer may stand in a sentence, or several things have to be named
OWN = 12  # most tokens of an answer that is not given: that of the unedited model

Place = tuple[Ids, int]  # a prompt in tokens, and where the first token of its answers is read


@dataclass(eq=False)
class Asked:
    """A question in the model's tokens."""

    question: Question
    kind: str
    prompt: Place
    accepted: tuple[tuple[str, ...], ...]
    target: Ids = ()
    against: Ids = ()
    at: Place = ((), 0)  # where the target is read: of a masked model the prompt has as many masks as it has tokens
    at_against: Place = ((), 0)
    tokens: int = 0  # most that are generated
    sentences: int | None = 1  # that are generated; None: a whole reply
    anywhere: bool = False  # whether the answer may stand anywhere in it


class Aligned:
    """Prompts and targets in tokens, each once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.chat = chat_of(model)
        self.known: dict[tuple[str, str | None, bool | None], Alignment] = {}

    def __call__(self, question: Question, target: str | None = None) -> Alignment:
        """The prompt in tokens, with a target or without one."""
        key = (question.prompt, target, None if target is None else question.space)
        if key not in self.known:
            self.known[key] = question.fact(target).align(self.model)
        return self.known[key]


def asked_in_tokens(aligned: Aligned, one: Question, generate: bool = False, old: Answer | None = None) -> Asked:
    """A question in tokens.

    Args:
        aligned: the tokens of prompts and targets.
        one: the question.
        generate: let the model write its answer, to the end of a sentence.
        old: the unedited model's answer, which is the wanted one of a question that has none.
    """

    def at(target: str | None) -> tuple[Place, Ids]:
        found = aligned(one, target)
        return (found.input_ids, found.answer_position), found.target_ids

    asked = Asked(one, one.kind, at(None)[0], one.answers)
    asked.at = asked.at_against = asked.prompt
    if one.against is not None:
        asked.at_against, asked.against = at(one.against)
    if one.answer is not None:
        asked.at, asked.target = at(one.answer)
    elif old is not None and old.greedy:
        asked.target = old.greedy  # the ids themselves, so that the same answer is the same tokens
        asked.accepted = ((answer_text(aligned.model, old.greedy).strip(),),)
    if generate:
        replies = aligned.chat is not None and aligned.chat.turn(one.prompt) is not None
        asked.anywhere = replies or is_question(one.prompt)
        asked.tokens = _room(aligned, asked, SPARE_IN_REPLY if replies else None)
        # an answer may hold marks itself ("Yahoo! Inc.")
        wordings = [sentences_in(text) for thing in one.answers for text in thing]
        asked.sentences = None if replies and wordings else max(wordings, default=1)
    return asked


def _room(aligned: Aligned, question: Asked, spare: int | None) -> int:
    """Number of tokens generated; spare: behind the longest answer, None: by the question."""
    given = question.question.answers
    if not given:
        return len(question.target) + (spare or SPARE) if question.target else OWN
    # the tokenizer alone: some of many wordings may be such as it cannot write after the prompt
    longest = [aligned.model.tokenizer(f" {max(one, key=len).strip()}", add_special_tokens=False) for one in given]
    spare = spare or (SPARE_IN_SENTENCE if question.anywhere or len(given) > 1 else SPARE)
    return sum(len(each["input_ids"]) for each in longest) + spare  # type: ignore[arg-type]
