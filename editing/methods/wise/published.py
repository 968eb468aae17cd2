"""WISE as published: SGD on a masked copy of a projection, with margins between edits and irrelevant text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from editing.memories.wise import SITES, activation, apart
from tracer.engine.frame import Frame, attach
from tracer.engine.memories import forward
from tracer.engine.sweep import check_numbers
from tracer.errors import NotFinite, PromptTooLong
from tracer.model import orientation

from .settings import WISESettings

if TYPE_CHECKING:
    from tracer.model import Model

IGNORED = -100
ENOUGH, STILL = 0.02, 1e-4
"""Loss at which training may end, and by how little it has to change then."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Rows of an edit, filled up on the left: its templates, and last an irrelevant text.

    Attributes:
        ids: [rows, tokens].
        real: [rows, tokens], 1 for tokens.
        labels: [rows, tokens], the target's ids, and -100.
    """

    ids: Tensor
    real: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a copy has become.

    Attributes:
        delta: [d_in, d_out], what it adds.
        distance: least distance in scope.
        curve: [steps, 3], loss, its part from the targets, and from the margins, before each step.
    """

    delta: Tensor
    distance: float
    curve: Tensor


def lesson_of(model: Model, prompt: str, target: str, templates: Sequence[str], irrelevant: str) -> Lesson:
    """The rows of an edit.

    Args:
        model: whose tokenizer is used.
        prompt: of the edit.
        target: of the edit.
        templates: texts with `{}` for prompt and target.
        irrelevant: a text that is to stay as it is.
    """
    tokenizer: Any = model.tokenizer
    said = list(tokenizer(target if target.startswith(" ") else f" {target}", add_special_tokens=False).input_ids)
    whole = [list(tokenizer(each.format(f"{prompt} {target.strip()}")).input_ids) for each in templates]
    rows = [*whole, [token for token in tokenizer(irrelevant).input_ids if token < model.n_tokens][: model.n_ctx]]
    longest = max(map(len, rows))
    if longest > model.n_ctx:
        raise PromptTooLong(
            f"{prompt!r} in a template has {longest} tokens and {model.name} reads at most {model.n_ctx}; shorten the "
            "templates, or the prompt"
        )
    named = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    pad = named if named is not None and named < model.n_tokens else 0
    ids = torch.full((len(rows), longest), int(pad))
    real = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for place, row in enumerate(rows):
        ids[place, longest - len(row) :] = torch.tensor(row)
        real[place, longest - len(row) :] = 1
    labels[-1, longest - len(rows[-1]) :] = torch.tensor(rows[-1])
    labels[: len(whole), longest - len(said) :] = torch.tensor([row[-len(said) :] for row in whole])
    return Lesson(ids, real, labels)


def learn(
    model: Model, layer: int, lesson: Lesson, delta: Tensor, mask: Tensor, settings: WISESettings, distance: float
) -> Learnt:
    """Train a copy on an edit.

    Args:
        model: as it is.
        layer: of the projection.
        lesson: the rows.
        delta: [d_in, d_out], what the copy adds before.
        mask: [d_in, d_out], 1 for entries that may change.
        settings: of the method.
        distance: least distance in scope so far.

    Raises:
        TracerError: a loss that is not finite.
    """
    module: Any = model.module("key" if settings.site == "down" else "pre", layer)
    path = model.path("key" if settings.site == "down" else "pre", layer)
    stored = module.weight.detach().float()
    weight = stored if orientation(module, path) == "in_out" else stored.T
    copy = (weight + delta.to(weight)).clone().requires_grad_()
    act, mask = activation(model), mask.to(weight)
    optimizer = torch.optim.SGD([copy], lr=settings.lr or 1.0, weight_decay=settings.weight_decay)
    curve: list[tuple[float, float, float]] = []
    last = float("nan")
    for step in range(settings.steps):
        with torch.enable_grad():
            logits, old, new = _both(model, layer, lesson, copy, module.bias, settings.site)
            if not curve:  # nothing is trained yet
                check_numbers(model, logits.detach())
            targets = _targets(logits, lesson)
            apart_by = apart(act, old, new).mean(1)
            inside, outside = apart_by[:-1], apart_by[-1]
            margins = _margins(inside, outside, settings)
            loss = targets + margins
        curve.append((float(loss.detach()), float(targets.detach()), float(margins.detach())))
        if not torch.isfinite(loss.detach()):
            raise NotFinite(f"the loss of step {step} is {curve[-1][0]}; lower lr, or load the model in float32")
        still = abs(last - curve[-1][0]) <= STILL and curve[-1][0] <= ENOUGH
        last = curve[-1][0]
        if still or step == settings.steps - 1:
            distance = min(distance, float(inside.detach().mean()))
        if still:
            break
        loss.backward()
        assert copy.grad is not None
        copy.grad *= mask
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            limit = settings.norm_constraint
            copy.copy_(weight + (copy - weight).clamp(-limit, limit))
    return Learnt((copy.detach() - weight).cpu(), distance, torch.tensor(curve))


def merged(deltas: Sequence[Tensor], density: float) -> Tensor:
    """What copies become by TIES (Yadav et al. 2023): the mean of those of a copy's largest entries that agree in sign.

    Args:
        deltas: [d_in, d_out] each, what the copies add.
        density: share of each copy's entries that counts.
    """
    kept = torch.stack([_largest(delta, density) for delta in deltas])
    elected = torch.where(kept.sum(dim=0) >= 0, 1, -1)
    agreeing = kept.sign() == elected
    return (kept * agreeing).sum(dim=0) / agreeing.sum(dim=0).clamp(min=1)


def _largest(delta: Tensor, density: float) -> Tensor:
    """A copy's entries of largest size, a share of them all; 0 elsewhere."""
    mask = delta.new_zeros(delta.numel())
    mask[delta.abs().flatten().topk(int(density * delta.numel())).indices] = 1
    return delta * mask.view_as(delta)


def _both(
    model: Model, layer: int, lesson: Lesson, copy: Tensor, bias: Tensor | None, site: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits with the copy in place, and what the projection gives with W and with the copy."""
    read, write = SITES[site]
    seen: dict[str, Tensor] = {}
    frame = Frame(lesson.ids.shape[1])

    def act(state: Tensor) -> Tensor:
        seen["old"] = state
        flat = seen["x"].reshape(-1, len(copy))  # as the module does it, to the last bit
        new = flat @ copy if bias is None else torch.addmm(bias, flat, copy)
        seen["new"] = new.view(*state.shape).to(state.dtype)
        return seen["new"]

    with ExitStack() as stack:
        stack.callback(attach(model, write, layer, act, frame).remove)
        stack.callback(attach(model, read, layer, lambda state: seen.__setitem__("x", state), frame).remove)
        more = {"attention_mask": lesson.real.to(model.device), "use_cache": False}
        logits = forward(model, lesson.ids.to(model.device), None, **more).logits
    return logits.float(), seen["old"], seen["new"]


def _targets(logits: Tensor, lesson: Lesson) -> Tensor:
    """Mean over rows of the targets' losses, each divided by one token too many."""
    count = len(lesson.labels) - 1
    labels = lesson.labels[:count, 1:].to(logits.device)
    kept = labels != IGNORED
    chosen = logits[:count, :-1].log_softmax(-1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
    return (-(chosen * kept).sum(1) / (kept.sum(1) + 1)).mean()


def _margins(inside: Tensor, outside: Tensor, settings: WISESettings) -> Tensor:
    """Means of what is above zero: of irrelevant text less edits, of the former, and of the latter."""
    parts = (outside - inside + settings.gamma, outside.unsqueeze(0) - settings.alpha, settings.beta - inside)
    return torch.stack([part[part > 0].mean() if bool((part > 0).any()) else part.sum() * 0 for part in parts]).sum()
