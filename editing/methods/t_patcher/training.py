"""Patches while they are trained: those of many groups share the forwards, and each group ends by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from editing.memories.activations import activation
from editing.methods.beside import Beside
from tracer.engine.sweep import check_numbers
from tracer.errors import NotFinite
from tracer.progress import bar

from .losses import activation_loss, memory_loss, smoothed
from .plateau import Plateau

if TYPE_CHECKING:
    from tracer.engine.batch import Row
    from tracer.model import Model

    from .settings import TPatcherSettings

COLUMNS = ("total", "smoothed", "nll", "act", "memory", "gradient")
"""Columns of a group's curve, before each step; the gradient's norm is that before it is bounded."""
PULL, REACH = 0.5, 0.05  # of the measured rates: of an activation, and of a state's length
LET_THROUGH, LEAK = 0.01, 0.1


@dataclass(eq=False)
class Patches:
    """Patches of one group of requests.

    Attributes:
        rows: of the group's requests, among all rows.
        owner: [n], which of these each patch is of, among all rows.
        tokens: n ids that they are to bring about.
        x: [n, d] float32, what enters the MLP at their own places.
        reach: [n], length of the hidden state they add to.
        others: [m, d] further states where they are not to be active.
        apart: [m, n] which of these count for which patch; None: all.
        kept: [k] bool, which of the patches that the model has already stay: all but those of prompts that are
            written again.
        parameters: keys [n, d], biases [n], values [n, d] and, of drawn ones, their factors [n, d].
        curve: a line a step, see `COLUMNS`.
        done: whether the training of the group has ended.
        share: of the corpus at which a patch is active, as last seen.
    """

    rows: tuple[int, ...]
    owner: Tensor
    tokens: tuple[int, ...]
    x: Tensor
    reach: Tensor
    others: Tensor
    apart: Tensor | None
    kept: Tensor
    parameters: list[Tensor] = field(default_factory=list)
    curve: list[list[float]] = field(default_factory=list)
    done: bool = False
    share: float = 1.0

    def begin(self, settings: TPatcherSettings, towards: Tensor | None) -> None:
        """Set the parameters to their starting values.

        Args:
            settings: of the method.
            towards: [n, d], directions of the tokens that are wanted; None: zeros.
        """
        keys = self.x / self.x.square().sum(-1, keepdim=True)
        biases = torch.zeros(len(keys), device=keys.device)
        if settings.start == "normal":
            drawn = torch.randn(*keys.shape[::-1], generator=torch.Generator().manual_seed(settings.seed))
            values = [drawn.T.to(keys), torch.full_like(keys, settings.amplify)]
        elif settings.start == "zero" or towards is None:
            values = [torch.zeros_like(keys)]
        else:
            size = settings.size * self.reach.unsqueeze(-1)
            values = [size * towards / towards.norm(dim=-1, keepdim=True)]
        self.parameters = [each.clone().requires_grad_() for each in (keys, biases, *values)]

    @property
    def values(self) -> Tensor:
        """Values as they act, [n, d]."""
        return self.parameters[2] if len(self.parameters) == 3 else self.parameters[2] * self.parameters[3]

    def active(self) -> Tensor:
        """Pre-activations at their own places, [n]."""
        return (self.x * self.parameters[0]).sum(-1) + self.parameters[1]

    def rates(self, settings: TPatcherSettings) -> list[float]:
        """Adam's rate of each parameter."""
        if settings.lr is not None:
            return [settings.lr] * len(self.parameters)
        key = PULL / float(self.x.abs().sum(-1).mean())
        value = REACH * float(self.reach.mean()) / math.sqrt(self.x.shape[-1])
        return [key, PULL / 5, value] if len(self.parameters) == 3 else [key, PULL / 5, value / settings.amplify, value]


@dataclass(frozen=True, eq=False)
class Bench:
    """What the groups share.

    Attributes:
        layer: of the patches.
        activation: name of their function.
        margins: as of the settings.
        corpus: [m, d] float32, states where no patch is to be active.
        present: patches that the model has already: keys, biases, values; None: none.
        aside: [k, d] float32, states that validations look at; None: there are none.
    """

    layer: int
    activation: str
    margins: tuple[float, float, float]
    corpus: Tensor
    present: tuple[Tensor, Tensor, Tensor] | None
    aside: Tensor | None = None

    def before(self, x: Tensor, stay: Tensor) -> Tensor:
        """What patches that the model has already add, [R, N, d].

        Args:
            x: [R, N, d], what enters the MLP.
            stay: [R, k], which of them count in which row.
        """
        assert self.present is not None
        keys, biases, values = self.present
        return (activation(self.activation)(x @ keys.T + biases) * stay[:, None]) @ values


def measured_margins(name: str) -> tuple[float, float, float]:
    """(2, m, -m) with the least half m from 3 on below which an activation function lets less than a hundredth through.

    Less, such as 1 for relu, is enough for a text, and not for questions like the edit's: after 80 FactWorld edits in a
    row 55 % of neighbours are right with m = 1, and 85 % with 3, which is published.

    Args:
        name: of the function.
    """
    x = torch.arange(0, 20.5, 0.5)
    through = activation(name)(-x).abs() > LET_THROUGH
    last = int(through.nonzero()[-1]) if bool(through.any()) else -1
    margin = max(3.0, float(x[min(last + 1, len(x) - 1)]))
    return 2.0, margin, -margin


def train(
    model: Model,
    beside: Beside,
    rows: Sequence[Row],
    groups: Sequence[Patches],
    bench: Bench,
    settings: TPatcherSettings,
) -> None:
    """Train the patches of every group, in place.

    Args:
        model: named in messages.
        beside: the rows.
        rows: the same.
        groups: with their starting values.
        bench: what they share.
        settings: of the method.

    Raises:
        TracerError: a loss that is not finite.
    """
    adams = [_adam(patches, settings) for patches in groups]
    plateaus = [Plateau(adam) for adam in adams] if settings.validate_every else []
    with bar("patches", settings.steps * len(groups)) as progress:
        task = progress.task_ids[0]
        for _ in range(settings.steps):
            going = [i for i, patches in enumerate(groups) if not patches.done]
            if not going:
                break
            told = _targets(beside, rows, [groups[i] for i in going], bench, settings)
            _elsewhere([groups[i] for i in going], bench, settings, told)
            for i in going:
                _check(model, groups[i])
                ended = plateaus and _validated(groups[i], told[id(groups[i])], bench, settings, plateaus[i])
                if ended or _learnt(groups[i], told[id(groups[i])], settings):
                    groups[i].done = True
                    progress.advance(task, settings.steps - len(groups[i].curve) + 1)
                    continue
                adams[i].step()
                progress.advance(task)
            for i in going:
                adams[i].zero_grad(set_to_none=True)


def _adam(patches: Patches, settings: TPatcherSettings) -> torch.optim.Adam:
    each = [{"params": [p], "lr": lr} for p, lr in zip(patches.parameters, patches.rates(settings), strict=True)]
    return torch.optim.Adam(each, weight_decay=settings.weight_decay)


def _targets(
    beside: Beside, rows: Sequence[Row], groups: Sequence[Patches], bench: Bench, settings: TPatcherSettings
) -> dict[int, list[Tensor]]:
    """Take the loss of the targets backward.

    Its parts, the largest loss of a token, and the number of tokens that are not said, by id of the group.
    """
    act, device = activation(bench.activation), bench.corpus.device
    whose = {row: patches for patches in groups for row in patches.rows}
    number = {row: place for place, patches in enumerate(groups) for row in patches.rows}
    column = torch.tensor([place for place, patches in enumerate(groups) for _ in patches.tokens], device=device)
    told = {id(patches): [torch.zeros((), device=device) for _ in range(4)] for patches in groups}

    def add(x: Tensor, some: Sequence[int]) -> Tensor:
        keys, biases = (torch.cat([patches.parameters[i] for patches in groups]) for i in (0, 1))
        values = torch.cat([patches.values for patches in groups])
        x = x.to(keys.dtype)
        own = torch.tensor([number.get(row, -1) for row in some], device=device)[:, None, None] == column
        new = torch.where(own, act(x @ keys.T + biases), 0.0) @ values
        if bench.present is not None:
            stay = torch.stack([(whose[row] if row in whose else groups[0]).kept for row in some])
            new = new + bench.before(x, stay)
        return new

    for found in beside.run({bench.layer: add}, frozenset(whose)):
        parts = []
        for row, log_probs in found.items():
            if row not in whose:
                continue
            own = told[id(whose[row])]
            targets = torch.tensor(rows[row].target, device=log_probs.device)
            smooth, nll = smoothed(log_probs, targets, settings.label_smoothing)
            share = 1 / len(whose[row].rows)
            parts.append(smooth.mean() * share)
            own[0] = own[0] + parts[-1].detach().to(device)
            own[1] = own[1] + nll.detach().mean().to(device) * share
            own[2] = torch.maximum(own[2], nll.detach().max().to(device))
            own[3] = own[3] + (log_probs.argmax(-1) != targets).sum().to(device)
        torch.stack(parts).sum().backward()
    return told


def _elsewhere(
    groups: Sequence[Patches], bench: Bench, settings: TPatcherSettings, told: dict[int, list[Tensor]]
) -> None:
    """Take the terms of activations backward, bound the gradients, and note a line of each group's curve."""
    act = activation(bench.activation)
    keys = torch.cat([patches.parameters[0] for patches in groups])
    counts = [len(patches.tokens) for patches in groups]
    terms, shares, lines = [], [], []
    for patches, corpus in zip(groups, (bench.corpus @ keys.T).split(counts, 1), strict=True):
        active, biases = patches.active(), patches.parameters[1]
        others = corpus + biases
        shares.append((act(others.detach()).abs() > LEAK).any(1).float().mean())
        if len(patches.others):
            further = patches.others @ patches.parameters[0].T + biases
            if patches.apart is not None:
                further = further.masked_fill(~patches.apart, -math.inf)
            others = torch.cat([others, further])
        on = activation_loss(settings.act_loss, active, bench.margins[0], settings.repeats)
        off = memory_loss(settings.memory_loss, active, others, bench.margins[1:], settings.repeats)
        terms.append(settings.act_weight * on + settings.memory_weight * off)
        smooth, nll = told[id(patches)][:2]
        lines.append(torch.stack([smooth + terms[-1].detach(), smooth, nll, on.detach(), off.detach()]))
    torch.stack(terms).sum().backward()
    for patches, line, share in zip(groups, lines, shares, strict=True):
        limit = settings.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(patches.parameters, limit)
        patches.curve.append([*line.tolist(), float(norm)])
        patches.share = float(share)


def _check(model: Model, patches: Patches) -> None:
    if len(patches.curve) == 1:  # nothing is trained yet
        check_numbers(model, torch.tensor(patches.curve[0]))
    if not all(map(math.isfinite, patches.curve[-1])):
        raise NotFinite(
            f"the loss of patches is not finite after {len(patches.curve) - 1} steps on {model.name} in {model.dtype}; "
            "take a smaller lr or clip_norm=5, or load the model with dtype=torch.float32"
        )


def _validated(
    patches: Patches, told: list[Tensor], bench: Bench, settings: TPatcherSettings, plateau: Plateau
) -> bool:
    """Whether this is a step of a validation, and training ends with it."""
    step = len(patches.curve) - 1
    if step == 0 or step % settings.validate_every:
        return False
    aside = None
    if bench.aside is not None and step >= settings.validate_from and not float(told[3]):
        with torch.no_grad():
            others = bench.aside @ patches.parameters[0].T + patches.parameters[1]
            own = patches.active()
            aside = float(memory_loss(settings.memory_loss, own, others, bench.margins[1:], settings.repeats))
    return plateau.ends(float(told[0]), aside)


def _learnt(patches: Patches, told: list[Tensor], settings: TPatcherSettings) -> bool:
    return float(told[2]) < settings.stop_loss and patches.share <= settings.stop_share
