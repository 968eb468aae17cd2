"""Edits for training that do not repeat: names that nobody bears, and another target each time.

A training that sees the same edits again and again learns these edits by heart, and makes no soft prompts of others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING

from editing.methods.lessons import Lesson
from editing.methods.meta.episodes import fact_about, line_of
from tracer.engine.batch import Row
from tracer.facts.encoding import encode
from tracer.text import plain

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

TRIES = 20


@dataclass(frozen=True)
class Batch:
    """Edits of one step.

    Attributes:
        texts: of the edits, prompt and target, in tokens.
        said: a row for each, in one of its wordings, with the target.
        again: likewise, in another of its wordings.
        apart: likewise, a question about something else.
    """

    texts: tuple[Ids, ...]
    said: tuple[Row, ...]
    again: tuple[Row, ...]
    apart: tuple[Row, ...]


class Fresh:
    """Draws batches from lessons.

    Args:
        model: whose tokenizer is used.
        lessons: of records.
        recombined: share of edits about a new name.
        drawn: share of edits with another target of the relation.
        apart: share of the other questions that are about a new name.
    """

    def __init__(
        self, model: Model, lessons: Sequence[Lesson], *, recombined: float, drawn: float, apart: float
    ) -> None:
        self.model, self.lessons = model, list(lessons)
        self.recombined, self.drawn, self.apart = recombined, drawn, apart
        self._targets: dict[str, list[str]] = {}
        self._names: dict[str, list[str]] = {}
        for lesson in self.lessons:
            relation = lesson.relation or ""
            true = lesson.request.target_true
            own = self._targets.setdefault(relation, [])
            own += [each.strip() for each in (lesson.target, true) if each is not None]
            self._names.setdefault(relation, []).append(lesson.request.subject)
        self._targets = {relation: sorted(set(own)) for relation, own in self._targets.items()}
        self._names = {relation: sorted(set(own)) for relation, own in self._names.items()}
        self._known = {relation: frozenset(own) for relation, own in self._names.items()}

    def drawn_at(self, draw: Random, count: int) -> Batch:
        """A batch of edits of different subjects.

        Args:
            draw: random numbers.
            count: edits.
        """
        texts, said, again, apart = [], [], [], []
        subjects: set[str] = set()
        for _ in range(count):
            for _ in range(TRIES):
                lesson = self._lesson(draw)
                if plain(lesson.request.subject) not in subjects:
                    break
            subjects.add(plain(lesson.request.subject))
            rows = [self._row(lesson, prompt) for prompt in (lesson.prompt, draw.choice(lesson.about))]
            texts.append(text_ids(self.model, lesson))
            said.append(rows[0])
            again.append(rows[1])
            apart.append(self._other(lesson, draw))
        return Batch(tuple(texts), tuple(said), tuple(again), tuple(apart))

    def _lesson(self, draw: Random) -> Lesson:
        """A lesson, maybe of another name and target."""
        lesson = draw.choice(self.lessons)
        request = lesson.request
        relation = lesson.relation or ""
        if draw.random() < self.drawn:
            known = plain(request.target_true or "")
            able = [each for each in self._targets[relation] if plain(each) != known]
            request = replace(request, target_new=draw.choice(able or [lesson.target]))
        if draw.random() < self.recombined:
            name = self._name(relation, draw)
            about = tuple(each.replace(request.subject, name) for each in lesson.about if request.subject in each)
            if about:  # the true answer is not that of the new name
                request = replace(request, subject=name, target_true=None)
                return replace(lesson, request=request, target=request.target_new, about=about)
        return replace(lesson, request=request, target=request.target_new)

    def _name(self, relation: str, draw: Random) -> str:
        """The beginning of a subject's name and the end of another's, which is no name of the relation's yet."""
        names = self._names[relation]
        found = ""
        for _ in range(TRIES):
            first, last = draw.choice(names).split(" "), draw.choice(names).split(" ")
            if len(first) > 1 and len(last) > 1:
                found = " ".join([*first[:-1], last[-1]])
            else:
                found = first[0][: (len(first[0]) + 1) // 2] + last[-1][len(last[-1]) // 2 :].lower()
            if found not in self._known[relation]:
                break
        return found

    def _row(self, lesson: Lesson, prompt: str) -> Row:
        return line_of(self.model, fact_about(lesson.request, prompt, lesson.target))

    def _other(self, lesson: Lesson, draw: Random) -> Row:
        """A question about something else: one of the record's own, or about a new name."""
        if lesson.apart and draw.random() >= self.apart:
            question = draw.choice(lesson.apart)
            return line_of(self.model, question.fact(question.answer))
        other = draw.choice(self.lessons)
        relation = other.relation or ""
        request = replace(
            other.request,
            subject=self._name(relation, draw),
            target_true=None,
            target_new=draw.choice(self._targets[relation]),
        )
        return line_of(self.model, request.fact)


def text_ids(model: Model, lesson: Lesson) -> Ids:
    """An edit's text, prompt and target, in tokens."""
    return tuple(encode(model.tokenizer, lesson.prompt + lesson.target, model.causal)[0])
