"""Training of RECIPE's nets on edits that do not repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

import torch
from torch import Tensor

from editing.methods.lessons import Lesson
from editing.prepared.course import Course, Trained, train
from editing.prepared.work import Work

from .fresh import Fresh
from .learner import Learner
from .measured import Examination

WIDE = 256  # inputs of a map beyond which its rate is lowered: a step of Adam moves what it gives by their number


def teach(learner: Learner, learnt: Sequence[Lesson], held_out: Sequence[Lesson], work: Work) -> Trained:
    """Train the nets, which end as they were at the best validation.

    Args:
        learner: the nets.
        learnt: lessons to draw edits from.
        held_out: lessons to validate on.
        work: seed and checkpoint.
    """
    settings = learner.settings
    own = {name: getattr(settings, name) for name in ("recombined", "drawn", "apart")}
    fresh = Fresh(learner.model, learnt, **own)
    examination = Examination.of(learner.model, held_out)

    def step(number: int) -> Mapping[str, Tensor]:
        draw = work.draws(number)
        swapped = torch.rand(settings.batch, generator=draw) < 0.5
        rest = Random(int(torch.randint(1 << 62, (1,), generator=draw)))
        return learner.losses(fresh.drawn_at(rest, settings.batch), swapped)

    course = Course(settings.steps, validate_every=max(1, settings.steps // 4), warm_up=20, decay=settings.decay)
    groups = [
        {"params": [each], "lr": settings.lr * min(1.0, WIDE / each.shape[-1])} for each in learner.parameters.values()
    ]
    optimizer = torch.optim.Adam(groups, lr=settings.lr)
    return train(
        learner.parameters,
        optimizer,
        step,
        course,
        work.checkpoint,
        validate=lambda: examination.marks(learner),
        part="nets",
        description="training RECIPE",
    )
