"""How well RECIPE's nets do on held-out edits, all of them in memory at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.memories.soft_nets import similarities
from editing.methods.lessons import Lesson
from editing.methods.meta.episodes import fact_about, line_of
from tracer.engine.front import logits_with_front

from .fresh import text_ids

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.engine.batch import Row
    from tracer.model import Model

    from .learner import Learner

ROWS = 32  # in a forward
KINDS = ("rewrite", "paraphrase")


@dataclass(frozen=True, eq=False)
class Examination:
    """Edits with their questions.

    Attributes:
        texts: of the edits, in tokens.
        rows: questions about them, with the targets.
        owners: which edit each is about.
        kinds: "rewrite" or "paraphrase" of each.
        apart: questions about something else, in tokens.
        apart_kinds: of these.
    """

    texts: tuple[Ids, ...]
    rows: tuple[Row, ...]
    owners: tuple[int, ...]
    kinds: tuple[str, ...]
    apart: tuple[Ids, ...]
    apart_kinds: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, lessons: Sequence[Lesson]) -> Examination:
        """That of lessons.

        Args:
            model: whose tokenizer is used.
            lessons: of held-out records.
        """
        rows: list[Row] = []
        owners: list[int] = []
        kinds: list[str] = []
        apart: dict[Ids, str] = {}
        for owner, lesson in enumerate(lessons):
            for place, prompt in enumerate((lesson.prompt, *lesson.about)):
                rows.append(line_of(model, fact_about(lesson.request, prompt, lesson.target)))
                owners.append(owner)
                kinds.append(KINDS[place > 0])
            for question in lesson.apart:
                apart.setdefault(line_of(model, question.fact(None)).ids, question.kind)
        own = {row.prompt(True) for row in rows}  # a question of one record may be an edit's of another
        apart = {ids: kind for ids, kind in apart.items() if ids not in own}
        texts = tuple(text_ids(model, lesson) for lesson in lessons)
        return cls(texts, tuple(rows), tuple(owners), tuple(kinds), tuple(apart), tuple(apart.values()))

    def marks(self, learner: Learner) -> dict[str, float]:
        """Shares: targets said in full with the own prompt in front; questions that are routed as they should be."""
        knowledge = learner.knowledge(self.texts)
        prompts = learner.prompts(knowledge[1:])
        owners = torch.tensor(self.owners)
        right = torch.tensor(self._right(learner, prompts))
        near = _similar(learner, [row.prompt(True) for row in self.rows], knowledge)
        hit = near.argmax(1) == owners + 1
        found: dict[str, float] = {}
        for kind in KINDS:
            some = torch.tensor([each == kind for each in self.kinds])
            found[f"{kind} oracle"] = float(right[some].double().mean())
            found[f"{kind} hit"] = float(hit[some].double().mean())
        alarms = _similar(learner, self.apart, knowledge).argmax(1) > 0 if self.apart else torch.zeros(0).bool()
        for kind in dict.fromkeys(self.apart_kinds):
            some = torch.tensor([each == kind for each in self.apart_kinds])
            found[f"{kind} alarm"] = float(alarms[some].double().mean())
        oracle = sum(found[f"{kind} oracle"] for kind in KINDS) / 2
        hits = sum(found[f"{kind} hit"] for kind in KINDS) / 2
        return {**found, "score": oracle + hits - float(alarms.double().mean() if len(alarms) else 0)}

    def threshold(self, learner: Learner, share: float) -> float:
        """The similarity that no more than a share of the questions about something else exceeds.

        Args:
            learner: the nets.
            share: of these questions.
        """
        if not self.apart:
            return 0.0
        near = _similar(learner, self.apart, learner.knowledge(self.texts))
        return float(near[:, 1:].amax(1).quantile(1 - share))

    def _right(self, learner: Learner, prompts: Tensor) -> list[bool]:
        found = []
        for start in range(0, len(self.rows), ROWS):
            some = self.rows[start : start + ROWS]
            own = prompts[list(self.owners[start : start + ROWS])]
            best = logits_with_front(learner.model, some, own, learner.positions).argmax(-1).cpu()
            for row, part in zip(some, best.split([len(row.read) for row in some]), strict=True):
                found.append(part.tolist() == list(row.target))
        return found


def _similar(learner: Learner, texts: Sequence[Ids], knowledge: Tensor) -> Tensor:
    """Similarities [texts, 1 + entries]."""
    parts = [learner.queries(texts[start : start + 4 * ROWS]) for start in range(0, len(texts), 4 * ROWS)]
    return similarities(torch.cat(parts), knowledge).cpu()
