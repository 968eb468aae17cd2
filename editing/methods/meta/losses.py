"""What a change does to answers, through its low-rank forward: how well targets are said, and how much others move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.methods.training import read_logits, token_losses
from tracer.engine.batch import Row

from .factors import Read
from .lowrank import LowRank, edited
from .places import Place

if TYPE_CHECKING:
    from tracer.model import Model

TokenLosses = Callable[[Tensor, Sequence[Row]], Tensor]
"""Losses of target tokens, [places], by logits [places, V] and the rows read there."""
ROWS = 32  # of a forward


@dataclass(frozen=True, eq=False)
class Effect:
    """What changes do to rows, place by place, rows in order.

    Attributes:
        nll: -log p of the target tokens of the rows to be said, or another loss that was asked for, [tokens].
        right: whether each of these is the most probable token, [tokens] bool.
        kl: KL(before, after) of the distributions where the rows to be kept are read, [places].
        same: whether the most probable token is as it was there, [places] bool.
    """

    nll: Tensor
    right: Tensor
    kl: Tensor
    same: Tensor


def effect(
    model: Model,
    places: Sequence[Place],
    low: Mapping[str, LowRank],
    said: Sequence[Row],
    said_group: Sequence[int],
    kept: Sequence[Row] = (),
    kept_group: Sequence[int] = (),
    read: Read = read_logits,
    loss: TokenLosses = token_losses,
) -> Effect:
    """What changes do to rows, in one forward; gradients flow to the changes where they are asked for.

    Args:
        model: its parameters ask for no gradients.
        places: matrices.
        low: by key of the place.
        said: rows whose target is to be said.
        said_group: whose change each of them has.
        kept: rows whose distributions are to stay.
        kept_group: whose change each of them has.
        read: gives logits.
        loss: of target tokens.
    """
    rows, groups = [*said, *kept], [*said_group, *kept_group]

    def with_changes(model: Model, some: Sequence[int]) -> Tensor:
        with edited(model, places, low, [groups[i] for i in some]):
            return read(model, [rows[i] for i in some])

    after = _by_length(model, rows, with_changes)
    count = sum(len(row.read) for row in said)
    here, there = after[:count], after[count:]
    target = torch.tensor([token for row in said for token in row.target], device=after.device)
    none = here.new_zeros(0)
    if not kept:
        return Effect(loss(here, said), here.argmax(-1) == target, none, none.bool())
    with torch.no_grad():
        before = _by_length(model, kept, lambda model, some: read(model, [kept[i] for i in some]))
    same = there.argmax(-1) == before.argmax(-1)
    return Effect(loss(here, said), here.argmax(-1) == target, kl(before, there), same)


def _by_length(model: Model, rows: Sequence[Row], read: Callable[[Model, Sequence[int]], Tensor]) -> Tensor:
    """Logits where rows are read, in their order; those of similar length share a forward: little is padding."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), ROWS):
        some = order[start : start + ROWS]
        parts = read(model, some).split([len(rows[i].read) for i in some])
        found.update(zip(some, parts, strict=True))
    return torch.cat([found[i] for i in range(len(rows))])


def kl(before: Tensor, after: Tensor) -> Tensor:
    """KL(before, after) of distributions by their logits, [places].

    Args:
        before: [places, V].
        after: [places, V].
    """
    log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def smoothed(epsilon: float) -> TokenLosses:
    """Losses of target tokens where `epsilon` of the probability is wanted for all other tokens alike.

    Args:
        epsilon: 0 for -log p.
    """

    def losses(logits: Tensor, rows: Sequence[Row]) -> Tensor:
        each = epsilon / (logits.shape[-1] - 1)
        every = -logits.log_softmax(-1).sum(-1)
        return (1 - epsilon - each) * token_losses(logits, rows) + each * every

    return losses if epsilon else token_losses


def whole(right: Tensor, rows: Sequence[Row]) -> list[bool]:
    """Whether all places of each row are right.

    Args:
        right: [places] bool.
        rows: read there.
    """
    return [bool(part.all()) for part in right.split([len(row.read) for row in rows])]
