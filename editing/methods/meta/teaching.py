"""Training of an editor: its changes act in a forward, and it learns from what they do to episodes of records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from editing.methods.lessons import Lesson
from editing.methods.training import as_layers, read_logits, token_losses
from editing.prepared.course import Course, Trained, train
from editing.prepared.work import Work
from tracer.checks import finite, one_of, share, whole
from tracer.engine.above import Above
from tracer.engine.batch import Row
from tracer.errors import HyperparameterError

from .changes import MetaEditor
from .episodes import Episode, Episodes
from .factors import Read
from .losses import TokenLosses, effect
from .losses import whole as all_right
from .places import PROJECTIONS

if TYPE_CHECKING:
    from tracer.engine.acts import Ids
    from tracer.model import Model

KEPT_AT = ("answer", "all")
ASKED = 3  # kept rows of each kind and record in a validation
CHUNK = 16  # groups of a validation at once


@dataclass(frozen=True)
class Teaching:
    """How an editor is trained, whatever it is.

    Attributes:
        layers: whose MLPs it edits; None: the last ones.
        projections: which matrices of these, in this order: "gate", "up", "down"; None: as the method says.
        edits: requests that are edited at once; of several numbers every step draws one. Part of the editor.
        batch: edits of a step, in groups of that many.
        steps: of the optimiser, at most.
        lr: learning rate of Adam.
        rate_lr: learning rate of Adam for the editor's own step sizes, as a share of their first size.
        edit_weight: of the loss on the targets, where that on kept rows has weight 1.
        others: kept rows of an edit.
        texts: further ones, of text that the model wrote itself; see `editing.methods.meta.passages`. (Published: 0,
            but the one kept row is a text of another data set.)
        drawn: share of the edits whose target is drawn anew among those of the relation.
        kept_at: kept rows are read at their "answer", or at "all" tokens (as MEND is published).
        validate_every: steps between two validations.
        validate_on: held-out records that are validated on.
        patience: validations without a better score after which training ends; 0: it never ends early.
        warm_up: steps over which the learning rate rises from zero.
        decay: whether it falls to zero over the steps, in a line.
        clip: largest norm of the gradient; 0: any.
    """

    layers: Sequence[int] | None = None
    projections: Sequence[str] | None = None
    edits: int | Sequence[int] = 1
    batch: int = 16
    steps: int = 600
    lr: float = 1e-3
    rate_lr: float = 1e-2
    edit_weight: float = 1.0
    others: int = 4
    texts: int = 1
    drawn: float = 0.75
    kept_at: str = "answer"
    validate_every: int = 100
    validate_on: int = 60
    patience: int = 0
    warm_up: int = 20
    decay: bool = True
    clip: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", as_layers(self.layers))
        numbers = tuple(whole("edits", n, 1, kind=HyperparameterError) for n in self.numbers)
        object.__setattr__(self, "edits", numbers)
        if not numbers:
            raise HyperparameterError("edits is empty; expected how many requests are edited at once, such as 1")
        if self.projections is not None:
            object.__setattr__(self, "projections", tuple(self.projections))
            for name in self.projections:
                one_of("a projection", name, PROJECTIONS, kind=HyperparameterError)
        for name in ("batch", "validate_on", "others"):
            whole(name, getattr(self, name), 1, kind=HyperparameterError)
        for name in ("steps", "validate_every", "patience", "warm_up", "texts"):
            whole(name, getattr(self, name), kind=HyperparameterError)
        for name in ("lr", "rate_lr", "edit_weight"):
            finite(name, getattr(self, name), above=0, kind=HyperparameterError)
        finite("clip", self.clip, 0, kind=HyperparameterError)
        share("drawn", self.drawn, kind=HyperparameterError)
        one_of("kept_at", self.kept_at, KEPT_AT, kind=HyperparameterError)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Requests that are edited at once: each of these is drawn as often."""
        return (self.edits,) if isinstance(self.edits, int) else tuple(self.edits)

    @property
    def course(self) -> Course:
        """Length of the training."""
        own = ("steps", "validate_every", "patience", "warm_up", "decay", "clip")
        return Course(**{name: getattr(self, name) for name in own})


class Objective(Protocol):
    """What the steps of a training lower, and what it is validated by."""

    def step(self, episodes: Episodes, draw: Random, read: Read) -> Mapping[str, Any]:
        """Numbers of a step, as of [`editing.prepared.course.train`][].

        Args:
            episodes: of the lessons to learn from.
            draw: random numbers of the step.
            read: gives logits.
        """
        ...

    def validate(self, asked: Episodes, read: Read) -> Mapping[str, float]:
        """Numbers of a validation, among them "score".

        Args:
            asked: of the held-out lessons.
            read: gives logits.
        """
        ...


@dataclass(frozen=True, eq=False)
class Alone:
    """Each group of edits by itself, on the model as it is.

    Attributes:
        model: its parameters ask for no gradients.
        editor: is trained.
        settings: of the training.
        loss: of target tokens.
    """

    model: Model
    editor: MetaEditor
    settings: Teaching
    loss: TokenLosses = token_losses

    def step(self, episodes: Episodes, draw: Random, read: Read) -> Mapping[str, Any]:
        """Losses of an episode of as many groups as a step has room for."""
        size = draw.choice(self.settings.numbers)
        episode = episodes.drawn_at(draw, max(1, self.settings.batch // size), size)
        return losses_of(self.model, self.editor, episode, self.weighed, read, self.loss)

    def weighed(self, edit: Tensor, locality: Tensor) -> Tensor:
        """The loss, of those on targets and on kept rows."""
        return self.settings.edit_weight * edit + locality

    def validate(self, asked: Episodes, read: Read) -> Mapping[str, float]:
        """Scores of the held-out lessons, in groups of as many as are edited at once."""
        size = max(self.settings.numbers)
        return scores(self.model, self.editor, asked.fixed(size, self.settings.validate_on, ASKED), read)


def teach(
    model: Model,
    editor: MetaEditor,
    parameters: Mapping[str, Tensor],
    settings: Teaching,
    learnt: Sequence[Lesson],
    held_out: Sequence[Lesson],
    work: Work,
    *,
    rates: Mapping[str, float] | None = None,
    objective: Objective | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    description: str = "training the editor",
    passages: Sequence[Ids] = (),
) -> Trained:
    """Train parameters of an editor in place; they end as they were at the best validation.

    Args:
        model: its parameters ask for no gradients.
        editor: makes its changes with the parameters.
        parameters: leaves that ask for gradients, by name.
        settings: of the training.
        learnt: lessons to learn from.
        held_out: lessons to validate on, of other subjects.
        work: seed and checkpoint.
        rates: first sizes of the parameters that are trained with `rate_lr`, by name; the others with `lr`.
        objective: what is lowered; None: `Alone`.
        optimizer: makes one of groups of parameters, `lr`.
        description: of the progress bar.
        passages: running text to be kept.
    """
    own: dict[str, Any] = {"others": settings.others, "passages": passages, "texts": settings.texts}
    everywhere = settings.kept_at == "all"
    episodes = Episodes(model, learnt, drawn=settings.drawn, everywhere=everywhere, **own)
    asked = Episodes(model, held_out, drawn=0.0, **own)
    above = Above(model, min(place.layer for place in editor.places))
    goal = objective or Alone(model, editor, settings)

    def read(_: Model, rows: Sequence[Row]) -> Tensor:
        with above.begun(rows):
            return read_logits(model, rows)

    def step(number: int) -> Mapping[str, Any]:
        draw = Random(int(torch.randint(1 << 62, (1,), generator=work.draws(number))))
        return goal.step(episodes, draw, read)

    def validate() -> Mapping[str, float]:
        return goal.validate(asked, read)

    rates = rates or {}
    groups: list[dict[str, Any]] = [{"params": [each for name, each in parameters.items() if name not in rates]}]
    groups += [{"params": [parameters[name]], "lr": settings.rate_lr * first} for name, first in rates.items()]
    made = optimizer(groups, lr=settings.lr)
    more: dict[str, Any] = {"validate": validate, "part": "editor", "description": description}
    more["shown"] = ("loss", "rewrite", "paraphrase", "neighbour")
    return train(parameters, made, step, settings.course, work.checkpoint, **more)


def losses_of(
    model: Model,
    editor: MetaEditor,
    episode: Episode,
    weighed: Callable[[Tensor, Tensor], Tensor],
    read: Read = read_logits,
    loss: TokenLosses = token_losses,
) -> dict[str, Tensor]:
    """Losses of an episode, and the share of target tokens "said".

    "loss" is made of "edit loss", the mean over the target tokens, and "locality loss", the mean of KL(before, after)
    where kept rows are read.

    Args:
        model: as of `teach`.
        editor: likewise.
        episode: drawn.
        weighed: gives the loss of these two.
        read: gives logits.
        loss: of target tokens.
    """
    low = editor.changes(model, episode.groups, read=read).low
    parts = (episode.said, episode.said_group, episode.kept, episode.kept_group)
    found = effect(model, editor.places, low, *parts, read, loss)
    edit, locality = found.nll.mean(), found.kl.sum() / max(1, len(found.kl))
    told = {"edit loss": edit, "locality loss": locality, "said": found.right.float().mean()}
    return {"loss": weighed(edit, locality), **told}


@torch.no_grad()
def scores(model: Model, editor: MetaEditor, episode: Episode, read: Read = read_logits) -> dict[str, float]:
    """Shares of rows by kind: targets said in full, and kept rows with the same answer; and "score", of all together.

    The score is the harmonic mean of rewrites, paraphrases, and the kind of kept rows that stays least.

    Args:
        model: as of `teach`.
        editor: likewise.
        episode: of held-out lessons.
        read: gives logits.
    """
    right: dict[str, list[bool]] = {}
    for start in range(0, len(episode.groups), CHUNK):
        here = range(start, min(start + CHUNK, len(episode.groups)))
        said = [i for i, group in enumerate(episode.said_group) if group in here]
        kept = [i for i, group in enumerate(episode.kept_group) if group in here]
        rows, others = [episode.said[i] for i in said], [episode.kept[i] for i in kept]
        found = effect(
            model,
            editor.places,
            editor.changes(model, episode.groups[here.start : here.stop], read=read).low,
            rows,
            [episode.said_group[i] - start for i in said],
            others,
            [episode.kept_group[i] - start for i in kept],
            read,
        )
        for kinds, places, hits, listed in (
            (episode.said_kind, said, found.right, rows),
            (episode.kept_kind, kept, found.same, others),
        ):
            for place, hit in zip(places, all_right(hits, listed) if listed else (), strict=True):
                right.setdefault(kinds[place], []).append(hit)
    told = {kind: sum(hits) / len(hits) for kind, hits in right.items()}
    stays = [told[kind] for kind in told if kind not in ("rewrite", "paraphrase")]
    parts = [told["rewrite"], told.get("paraphrase", told["rewrite"]), min(stays, default=1.0)]
    return {**told, "score": len(parts) / sum(1 / max(part, 1e-3) for part in parts)}
