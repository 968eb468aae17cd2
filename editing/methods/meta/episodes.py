"""Episodes of training: groups of edits drawn from records, what each is to make the model say, and what it is to keep.

A kept row asks for another fact: of the same relation with the same old answer, of the same subject, or of anything
else. What is not among them is not protected: editors as published, trained with unrelated text there, move
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from editing.methods.lessons import Lesson
from editing.questions.question import Question
from editing.request import EditRequest
from tracer.engine.batch import Row
from tracer.engine.layout import own_tokens
from tracer.facts.fact import SLOT, Fact
from tracer.facts.readout import Readout
from tracer.text import plain

from .passages import drawn_row, whole_row

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

TRIES = 50  # draws of a lesson that fits into a group
NEAR = "neighbour", "same_subject"  # kinds of kept rows that are sought for first, in turn
TEXT = "text"  # kind of those that are running text
SPARSE = 8  # distance of the tokens at which such a row is read in a validation


@dataclass(frozen=True)
class Episode:
    """Edits in groups, and rows by group.

    Attributes:
        groups: requests as rows, those of a group to be edited at once.
        said: rows whose targets are to be said: edited wordings, and others.
        said_group: which group each is of.
        said_kind: "rewrite" or "paraphrase".
        kept: rows whose distributions are to stay.
        kept_group: which group each is of.
        kept_kind: kinds of their questions.
    """

    groups: list[list[Row]] = field(default_factory=list)
    said: list[Row] = field(default_factory=list)
    said_group: list[int] = field(default_factory=list)
    said_kind: list[str] = field(default_factory=list)
    kept: list[Row] = field(default_factory=list)
    kept_group: list[int] = field(default_factory=list)
    kept_kind: list[str] = field(default_factory=list)

    def say(self, row: Row, kind: str) -> None:
        """Add a row to be said, of the last group."""
        self.said.append(row)
        self.said_group.append(len(self.groups) - 1)
        self.said_kind.append(kind)

    def keep(self, row: Row, kind: str) -> None:
        """Add a row to be kept, of the last group."""
        self.kept.append(row)
        self.kept_group.append(len(self.groups) - 1)
        self.kept_kind.append(kind)


class Episodes:
    """Draws episodes from lessons.

    Args:
        model: whose tokenizer is used.
        lessons: of records.
        others: kept rows of an edit.
        drawn: share of the edits whose target is drawn from those of the other records of the relation.
        everywhere: kept rows are read at every token, not only at their answers.
        passages: running text in tokens, to be kept besides questions.
        texts: rows of it for each edit.
    """

    def __init__(
        self,
        model: Model,
        lessons: Sequence[Lesson],
        *,
        others: int,
        drawn: float,
        everywhere: bool = False,
        passages: Sequence[Ids] = (),
        texts: int = 1,
    ) -> None:
        self.model, self.lessons = model, list(lessons)
        self.others, self.drawn, self.everywhere = others, drawn, everywhere
        self.passages, self.texts = passages, texts
        self._rows: dict[tuple[str, str | None, bool], Row] = {}
        self._targets: dict[str, list[str]] = {}
        for lesson in self.lessons:
            if lesson.relation is not None:
                true = lesson.request.target_true
                own = self._targets.setdefault(lesson.relation, [])
                own += [each.strip() for each in (lesson.target, true) if each is not None]
        self._targets = {relation: sorted(set(own)) for relation, own in self._targets.items()}

    # --- drawn -----------------------------------------------------------------------------------------------------
    def drawn_at(self, draw: Random, groups: int, size: int) -> Episode:
        """An episode of groups of so many edits of different subjects, each with a kept row of every kind it has.

        Args:
            draw: random numbers.
            groups: number of groups.
            size: edits of a group.
        """
        found = Episode()
        for _ in range(groups):
            self._add(found, self._fitting(draw, size), draw)
        return found

    def sequence_at(self, draw: Random, groups: int, size: int) -> Episode:
        """An episode of groups that are edited one after another, no subject twice.

        Args:
            draw: as of `drawn_at`.
            groups: likewise.
            size: likewise.
        """
        found, lessons = Episode(), self._fitting(draw, groups * size)
        for start in range(0, len(lessons), size):
            self._add(found, lessons[start : start + size], draw)
        return found

    def fixed(self, size: int, most: int, asked: int) -> Episode:
        """The lessons in their order, in groups of so many edits of different subjects, with their own targets.

        Args:
            size: edits of a group; the last group may have fewer.
            most: lessons.
            asked: kept rows of each kind and lesson, at most.
        """
        found, left = Episode(), self.lessons[:most]
        while left:
            group: list[Lesson] = []
            for lesson in left:
                if len(group) < size and _fits(lesson, group):
                    group.append(lesson)
            left = [lesson for lesson in left if lesson not in group]
            found.groups.append([self.row(lesson, lesson.prompt, lesson.target) for lesson in group])
            for lesson in group:
                found.say(self.row(lesson, lesson.prompt, lesson.target), "rewrite")
                for prompt in lesson.about:
                    found.say(self.row(lesson, prompt, lesson.target), "paraphrase")
                count: dict[str, int] = {}
                for question in lesson.apart:
                    if count.get(question.kind, 0) < asked and _free(question, lesson, group):
                        count[question.kind] = count.get(question.kind, 0) + 1
                        found.keep(self.kept_row(question), question.kind)
                if self.passages:
                    text = self.passages[len(found.kept) % len(self.passages)]
                    found.keep(whole_row(text, SPARSE), TEXT)
        return found

    def _fitting(self, draw: Random, size: int) -> list[Lesson]:
        """Lessons of different subjects; fewer where there are not so many."""
        group: list[Lesson] = []
        for _ in range(TRIES * size):
            lesson = draw.choice(self.lessons)
            if _fits(lesson, group):
                group.append(lesson)
            if len(group) == size:
                break
        return group

    def _add(self, found: Episode, group: Sequence[Lesson], draw: Random) -> None:
        found.groups.append([])
        for lesson in group:
            wordings = [lesson.prompt, *lesson.about]
            draw.shuffle(wordings)
            target = self._target(lesson, draw)
            rows = [self.row(lesson, prompt, target) for prompt in wordings[:2]]
            found.groups[-1].append(rows[0])
            for row, kind in zip(rows, ("rewrite", "paraphrase"), strict=False):
                found.say(row, kind)
            for question in self._others(lesson, group, draw):
                found.keep(self.kept_row(question), question.kind)
            for _ in range(self.texts if self.passages else 0):
                found.keep(drawn_row(self.passages, draw), TEXT)

    def _target(self, lesson: Lesson, draw: Random) -> str:
        if lesson.relation is None or draw.random() >= self.drawn:
            return lesson.target
        known = plain(lesson.request.target_true or "")
        able = [target for target in self._targets[lesson.relation] if plain(target) != known]
        return draw.choice(able or [lesson.target])

    def _others(self, lesson: Lesson, group: Sequence[Lesson], draw: Random) -> list[Question]:
        """Questions to be kept: near ones of each kind in turn, and in every turn one of another lesson's."""
        own = [question for question in lesson.apart if _free(question, lesson, group)]
        draw.shuffle(own)
        by_kind = {kind: [question for question in own if question.kind == kind] for kind in NEAR}
        by_kind["else"] = [question for question in own if question.kind not in NEAR]
        found: list[Question] = []
        for _ in range(TRIES * self.others):
            for kind, listed in by_kind.items():
                far = draw.choice(self.lessons) if kind == "else" and not listed else None
                able = listed or [each for each in (far.apart if far else ()) if _free(each, lesson, group)]
                if able and len(found) < self.others:
                    found.append(able.pop() if listed else draw.choice(able))
            if len(found) == self.others:
                break
        return found

    # --- rows ------------------------------------------------------------------------------------------------------
    def row(self, lesson: Lesson, prompt: str, target: str) -> Row:
        """A wording of a lesson with a target as a row.

        Args:
            lesson: whose subject is looked up.
            prompt: the whole text.
            target: what is to follow.
        """
        key = (prompt, target, False)
        if key not in self._rows:
            self._rows[key] = line_of(self.model, fact_about(lesson.request, prompt, target))
        return self._rows[key]

    def kept_row(self, question: Question) -> Row:
        """A question as a row whose distribution is to stay.

        Args:
            question: with its answer, where that is known.
        """
        key = (question.prompt, question.answer, True)
        if key not in self._rows:
            row = line_of(self.model, question.fact(question.answer))
            if self.everywhere:
                ids = (*row.ids, *row.target[-1:])
                row = Row(ids, row.lookup, tuple(own_tokens(self.model, self.model.n_layers - 1, ids)))
            self._rows[key] = row
        return self._rows[key]


def fact_about(request: EditRequest, prompt: str, target: str) -> Fact:
    """A wording with a target as a fact about the subject of a request; of no subject where it names another.

    Args:
        request: with the subject.
        prompt: the whole text.
        target: what is to follow.
    """
    target = request.after(prompt, target)
    if prompt == request.text:
        return request.about(target)
    before, subject, after = prompt.partition(request.subject)
    plain_text = "{" not in prompt and "}" not in prompt and request.subject not in after
    return Fact(before + SLOT + after, subject, target) if subject and plain_text else Fact(SLOT, prompt, target)


def line_of(model: Model, fact: Fact) -> Row:
    """A fact as a row, whose lookup is the subject's last token; without a target the prompt's last place is read.

    Args:
        model: whose tokenizer is used.
        fact: to be asked.

    Raises:
        TracerError: as [`tracer.Fact.align`][] does.
    """
    found = fact.align(model)
    readout = Readout.of(model, found)
    return Row(readout.ids, found.subject_range[1] - 1, readout.read, readout.target)


def _fits(lesson: Lesson, group: Sequence[Lesson]) -> bool:
    """Whether a lesson is of another subject than those of a group."""
    return all(plain(lesson.request.subject) != plain(other.request.subject) for other in group)


def _free(question: Question, lesson: Lesson, group: Sequence[Lesson]) -> bool:
    """Whether a question of a lesson is about no other subject that is edited at once."""
    return not any(other is not lesson and other.request.subject in question.prompt for other in group)
