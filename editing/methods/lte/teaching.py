"""What LTE teaches, and how well it is learnt: to say the fact in front where a question is about it, and only then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.scope import question_of
from editing.memories.text import filled
from editing.methods.lora import ADAPTER
from editing.methods.meta.episodes import fact_about, line_of
from editing.methods.recipe.losses import kept_loss
from editing.methods.training import read_logits
from tracer.engine.batch import Row
from tracer.errors import PromptTooLong
from tracer.facts.encoding import encode

from .settings import LTEPreparation

if TYPE_CHECKING:
    from editing.methods.lessons import Lesson
    from editing.methods.recipe.fresh import Fresh
    from tracer.model import Model

ROWS = 32  # in a forward


@dataclass(frozen=True)
class Pairs:
    """Rows of one step.

    Attributes:
        said: with the fact in front, whose targets are to be said.
        apart: with a fact in front that is not about them.
        alone: without a fact.
        bare: the questions of `apart` and of `alone`, as the model answered them before.
    """

    said: tuple[Row, ...]
    apart: tuple[Row, ...]
    alone: tuple[Row, ...]
    bare: tuple[Row, ...]


def pairs(model: Model, fresh: Fresh, settings: LTEPreparation, draw: Random) -> Pairs:
    """Rows of fresh edits.

    Args:
        model: whose tokenizer is used.
        fresh: draws edits.
        settings: of the preparation.
        draw: random numbers.
    """
    batch = fresh.drawn_at(draw, settings.batch)
    facts = [question_of(model, ids) for ids in batch.texts]

    def front(own: int) -> str:
        if draw.random() >= settings.distractors:
            return facts[own]
        other = (own + 1 + draw.randrange(len(facts) - 1)) % len(facts)
        both = [facts[own], facts[other]]
        draw.shuffle(both)
        return ". ".join(both)

    every = list(enumerate(zip(batch.said, batch.again, strict=True)))
    said = [with_fact(model, settings.template, front(own), row) for own, two in every for row in two]
    apart = [with_fact(model, settings.template, front(own), row) for own, row in enumerate(batch.apart)]
    return Pairs(tuple(said), tuple(apart), batch.apart, batch.apart)


def with_fact(model: Model, template: str, fact: str, row: Row) -> Row:
    """A row with a fact in front of its prompt, as an edit puts it there.

    Args:
        model: whose tokenizer is used.
        template: with the slots.
        fact: its text.
        row: a question, with what is to follow.

    Raises:
        TracerError: it becomes too long.
    """
    prompt = row.prompt(model.causal)
    front = tuple(encode(model.tokenizer, filled(template, fact, question_of(model, prompt)), model.causal)[0])
    moved = len(front) - len(prompt)
    if len(row.ids) + moved > model.n_ctx:
        raise PromptTooLong(
            f"the fact {fact!r} makes the prompt {len(row.ids) + moved} tokens long, and {model.name} reads at most "
            f"{model.n_ctx}; give a shorter template, or records of shorter facts"
        )
    return replace(
        row,
        ids=(*front, *row.ids[len(prompt) :]),
        lookup=row.lookup + moved,
        read=tuple(place + moved for place in row.read),
    )


def losses(model: Model, adapters: Mapping[str, Any], rows: Pairs) -> dict[str, Tensor]:
    """All of the losses, and their sum.

    Args:
        model: with the adapters.
        adapters: by path of the module.
        rows: of the step.
    """
    every = [*rows.said, *rows.apart, *rows.alone]
    logits = read_logits(model, every)
    counts = [sum(len(row.read) for row in some) for some in (rows.said, rows.apart, rows.alone)]
    said, apart, alone = logits.split(counts)
    target = torch.tensor([token for row in rows.said for token in row.target], device=logits.device)
    with torch.no_grad(), resting(adapters):
        bare = read_logits(model, rows.bare)
    found = {
        "said": torch.nn.functional.cross_entropy(said, target),
        "apart": kept_loss(bare, apart),
        "alone": kept_loss(bare, alone),
    }
    return {"loss": torch.stack(list(found.values())).sum(), **found}


@contextmanager
def resting(adapters: Mapping[str, Any]) -> Iterator[None]:
    """Context in which adapters add nothing."""
    kept = {path: layer.scaling[ADAPTER] for path, layer in adapters.items()}
    try:
        for layer in adapters.values():
            layer.scaling[ADAPTER] = 0.0
        yield
    finally:
        for path, layer in adapters.items():
            layer.scaling[ADAPTER] = kept[path]


@dataclass(frozen=True, eq=False)
class Examination:
    """Held-out questions, with a fact in front and without.

    Attributes:
        rows: by kind; the target is what is to be said: that of the fact, or what the model said before.
    """

    rows: Mapping[str, tuple[Row, ...]]

    @classmethod
    def of(cls, model: Model, lessons: Sequence[Lesson], template: str) -> Examination:
        """That of lessons, on the model as it is.

        Args:
            model: before it is taught.
            lessons: of held-out records.
            template: with the slots.
        """
        found: dict[str, list[Row]] = {"rewrite": [], "paraphrase": [], "apart": [], "alone": []}
        for lesson in lessons:
            fact = lesson.prompt + lesson.target
            for place, prompt in enumerate((lesson.prompt, *lesson.about)):
                row = line_of(model, fact_about(lesson.request, prompt, lesson.target))
                found["paraphrase" if place else "rewrite"].append(with_fact(model, template, fact, row))
            for question in lesson.apart[:6]:
                row = line_of(model, question.fact(None))
                row = replace(row, target=tuple(_best(model, [row])[0]))
                found["alone"].append(row)
                found["apart"].append(with_fact(model, template, fact, row))
        return cls({kind: tuple(rows) for kind, rows in found.items()})

    def marks(self, model: Model) -> dict[str, float]:
        """Shares of rows on which what is to be said is the most probable, and a score of all."""
        found = {}
        for kind, rows in self.rows.items():
            best = _best(model, rows)
            right = [said == list(row.target) for said, row in zip(best, rows, strict=True)]
            found[kind] = sum(right) / max(1, len(right))
        return {**found, "score": sum(found.values())}


def _best(model: Model, rows: Sequence[Row]) -> list[list[int]]:
    found: list[list[int]] = []
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        with torch.no_grad():
            best = read_logits(model, some).argmax(-1).cpu()
        found += [part.tolist() for part in best.split([len(row.read) for row in some])]
    return found
