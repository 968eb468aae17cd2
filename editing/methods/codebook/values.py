"""Values of a codebook, trained until the model says the targets behind their prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.memories.placement import slots
from tracer.engine.acts import Place
from tracer.engine.batch import Row, frame_of, logits_of, padded
from tracer.engine.frame import Frame, attach
from tracer.engine.hooks import evaluating, pick_logits
from tracer.engine.partial import rows_at_once
from tracer.engine.sweep import check_numbers
from tracer.errors import NotFinite
from tracer.progress import track

if TYPE_CHECKING:
    from tracer.model import Model

ADDED = ("mlp", "attn", "hidden")  # kinds of sites on the residual stream


@dataclass(frozen=True)
class Training:
    """How values are trained.

    Attributes:
        place: kind and layer of the site that they replace.
        replacement: see [`editing.methods.grace.GRACESettings`][].
        steps: of Adam, at most.
        stop_loss: a value is finished at a lower loss; 0: never.
    """

    place: Place
    replacement: str
    steps: int
    stop_loss: float


@dataclass(frozen=True, eq=False)
class Trained:
    """A value as trained.

    Attributes:
        values: [count, width].
        losses: before each step and, last, of the final value.
        said: whether every token of the target is the most probable one at the end.
    """

    values: Tensor
    losses: Tensor
    said: bool


@dataclass(frozen=True, eq=False)
class Before:
    """What stands at a site from a row's key on.

    Attributes:
        states: [count, width].
        scale: usual size of a number of theirs, or of the residual stream they are added to, where that is more.
    """

    states: Tensor
    scale: float


def outputs(model: Model, rows: Sequence[Row], place: Place, counts: Sequence[int]) -> list[Before]:
    """What values begin with.

    Args:
        model: the model.
        rows: `lookup` is the key's token.
        place: kind and layer of the site.
        counts: tokens from there on.
    """
    found, stream = [], ("hidden", place[1])
    with torch.no_grad(), evaluating(model):
        for row, count in zip(rows, counts, strict=True):
            ids, kept = padded(model, [row]), {}
            frame = frame_of(model, [row], ids.shape[1]) or Frame(ids.shape[1])
            with ExitStack() as stack:
                for site in {place, stream}:
                    stack.callback(attach(model, *site, partial(kept.__setitem__, site), frame).remove)
                logits_of(model, ids, frame=frame)
            span = slice(row.lookup, row.lookup + count)
            states, beside = (kept[site][0, span].float().cpu().clone() for site in (place, stream))
            scale = float(states.square().mean().sqrt())
            if place[0] in ADDED:  # a value has to outweigh what it is added to; few numbers of that are huge
                scale = max(scale, float(beside.abs().median()))
            found.append(Before(states, scale))
    return found


def train_values(
    model: Model,
    rows: Sequence[Row],
    starts: Sequence[Tensor],
    training: Training,
    rates: Sequence[float],
    max_rows: int | None = None,
) -> list[Trained]:
    """Train each row's value by itself, in forwards that rows share.

    Args:
        model: the model; its parameters ask for no gradients.
        rows: prompts and targets; `lookup` is the key's token.
        starts: what each value begins with, [count, width].
        training: how.
        rates: learning rate of each.
        max_rows: rows that one forward takes; None: by memory.

    Raises:
        TracerError: losses that are not finite.
    """
    step = rows_at_once(model, rows, training.place[1], max_rows)
    groups = [range(len(rows))] if model.causal else _alike(rows)
    found: dict[int, Trained] = {}
    for group in groups:
        order = sorted(group, key=lambda i: len(rows[i].ids))
        for begin in track(range(0, len(order), step), "values"):
            some = order[begin : begin + step]
            each = _train(model, [rows[i] for i in some], [starts[i] for i in some], training, [rates[i] for i in some])
            found.update(zip(some, each, strict=True))
    return [found[i] for i in range(len(rows))]


def _alike(rows: Sequence[Row]) -> list[list[int]]:
    """Rows of one length each: a masked model sees the padding."""
    lengths = sorted({len(row.ids) for row in rows})
    return [[i for i, row in enumerate(rows) if len(row.ids) == length] for length in lengths]


def _train(
    model: Model, rows: Sequence[Row], starts: Sequence[Tensor], training: Training, rates: Sequence[float]
) -> list[Trained]:
    losses: list[list[float]] = [[] for _ in rows]
    said = [False] * len(rows)
    with torch.inference_mode(False), torch.enable_grad():
        values = [start.detach().to(model.device, torch.float32, copy=True).requires_grad_() for start in starts]
        optimizer = torch.optim.Adam([{"params": [value], "lr": lr} for value, lr in zip(values, rates, strict=True)])
        active = list(range(len(rows)))
        for step in range(training.steps):
            each, right = losses_with(model, [rows[i] for i in active], [values[i] for i in active], training)
            if not step:
                check_numbers(model, each)
            for i, loss, best in zip(active, _finite(model, each), right, strict=True):
                losses[i].append(loss)
                said[i] = best
            missing = [place for place, i in enumerate(active) if losses[i][-1] >= training.stop_loss]
            active = [active[place] for place in missing]
            if not active:
                break
            optimizer.zero_grad()  # of those finished it is None, and Adam leaves them alone
            each[missing].sum().backward()
            optimizer.step()
        if active:
            with torch.no_grad():
                each, right = losses_with(model, [rows[i] for i in active], [values[i] for i in active], training)
            for i, loss, best in zip(active, _finite(model, each), right, strict=True):
                losses[i].append(loss)
                said[i] = best
    parts = zip(values, losses, said, strict=True)
    return [Trained(value.detach().cpu(), torch.tensor(loss), best) for value, loss, best in parts]


def losses_with(
    model: Model, rows: Sequence[Row], values: Sequence[Tensor], training: Training
) -> tuple[Tensor, list[bool]]:
    """Mean of -log p over each row's target, [rows], with values in place; and whether the target is said.

    Args:
        model: the model.
        rows: as of `train_values`.
        values: [count, width] each.
        training: where and how they are put.
    """
    ids = padded(model, rows)
    line = torch.tensor([i for i, row in enumerate(rows) for _ in row.read])
    token = torch.tensor([position for row in rows for position in row.read])
    with ExitStack() as stack:
        frame = frame_of(model, rows, ids.shape[1]) or Frame(ids.shape[1])
        stack.callback(attach(model, *training.place, _putting(rows, values, training, ids), frame).remove)
        stack.callback(pick_logits(model, line, token).remove)
        read = logits_of(model, ids, frame=frame)[0].float()
    target = torch.tensor([i for row in rows for i in row.target], device=read.device)
    found = -read.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)
    counts = [len(row.target) for row in rows]
    said = [bool(part.all()) for part in (read.argmax(-1) == target).split(counts)]
    return torch.stack([part.mean() for part in found.split(counts)]), said


def _putting(
    rows: Sequence[Row], values: Sequence[Tensor], training: Training, ids: Tensor
) -> Callable[[Tensor], Tensor]:
    counts = torch.tensor([len(value) for value in values], device=ids.device).unsqueeze(1)
    lookups = torch.tensor([row.lookup for row in rows], device=ids.device).unsqueeze(1)
    slot, put = slots(training.replacement, torch.arange(ids.shape[1], device=ids.device) - lookups, counts)
    first = counts.cumsum(0) - counts

    def edit(state: Tensor) -> Tensor:
        table = torch.cat(list(values)).to(state)
        return torch.where(put.to(state.device).unsqueeze(-1), table[(slot + first).to(state.device)], state)

    return edit


def _finite(model: Model, each: Tensor) -> list[float]:
    if not bool(torch.isfinite(each).all()):
        raise NotFinite(
            f"the loss is not finite after training {model.name} in {model.dtype}; take a smaller "
            "lr, or load the model with dtype=torch.float32"
        )
    return each.detach().float().cpu().tolist()
