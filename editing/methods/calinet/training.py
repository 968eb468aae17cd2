"""A block of slots while it is trained, on facts together and on a text that is to stay as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from editing.memories.activations import activation
from editing.methods.beside import Added, Beside
from tracer.engine.sweep import check_numbers
from tracer.errors import NotFinite
from tracer.progress import track

if TYPE_CHECKING:
    from tracer.engine.batch import Row
    from tracer.model import Model

    from .settings import CaliNETSettings

PULL, REACH = 0.5, 0.02  # of the measured rates: of an activation, and of a state's length
Slots = Mapping[str, Tensor]
"""By "in", "out" and, if gated, "up": [n, d] each."""


@dataclass(eq=False)
class Block:
    """Slots beside the MLPs of some layers.

    Attributes:
        activation: name of their function.
        slots: by layer, leaves that ask for gradients.
        present: by layer, slots that the model has already.
        curve: a line a step: total, loss of the targets, and KL, before it.
    """

    activation: str
    slots: dict[int, dict[str, Tensor]]
    present: Mapping[int, Slots] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)

    @classmethod
    def begun(
        cls, model: Model, layers: Sequence[int], settings: CaliNETSettings, present: Mapping[int, Slots]
    ) -> Block:
        """A block with its starting values.

        Args:
            model: whose width it has.
            layers: of the slots.
            settings: of the method.
            present: as of the class.
        """
        draw = torch.Generator().manual_seed(settings.seed)
        wide, slots = model.d_model, settings.slots
        made: dict[int, dict[str, Tensor]] = {}
        for layer in layers:
            names = ("in", "up") if settings.gated else ("in",)
            own = {name: _uniform((slots, wide), wide, draw) for name in names}
            out = _uniform((wide, slots), slots, draw).T if settings.start == "linear" else torch.zeros(slots, wide)
            own["out"] = out.contiguous()
            made[layer] = {name: tensor.to(model.device).requires_grad_() for name, tensor in own.items()}
        return cls(settings.activation, made, present)

    @property
    def parameters(self) -> list[Tensor]:
        """All of them, layer by layer."""
        return [tensor for own in self.slots.values() for tensor in own.values()]

    def added(self) -> dict[int, Added]:
        """What it and the slots before it add, by layer."""
        return {layer: self._adder(layer) for layer in {*self.slots, *self.present}}

    def before(self) -> dict[int, Added]:
        """What the slots before it add, by layer."""
        return Block(self.activation, {}, self.present).added()

    def _adder(self, layer: int) -> Added:
        act, every = activation(self.activation), [self.slots.get(layer), self.present.get(layer)]

        def add(x: Tensor, _: Sequence[int]) -> Tensor:
            new = torch.zeros((), device=x.device)
            for own in filter(None, every):
                wide = x.to(own["in"].dtype)
                active = act(wide @ own["in"].T)
                new = new + (active * (wide @ own["up"].T) if "up" in own else active) @ own["out"]
            return new

        return add


def rates(block: Block, settings: CaliNETSettings, x: Mapping[int, Tensor], reach: Mapping[int, float]) -> list[dict]:
    """Parameters with their learning rates, as optimisers take them.

    Args:
        block: that is trained.
        settings: of the method.
        x: by layer [n, d], what enters the MLP where targets are read.
        reach: by layer, mean length of the state behind it there.
    """
    groups = []
    for layer, own in block.slots.items():
        for name, tensor in own.items():
            pull = PULL / float(x[layer].abs().sum(-1).mean())
            lr = REACH * reach[layer] / math.sqrt(tensor.shape[1]) if name == "out" else pull
            groups.append({"params": [tensor], "lr": lr if settings.lr is None else settings.lr})
    return groups


def train(
    model: Model,
    beside: Beside,
    rows: Sequence[Row],
    block: Block,
    groups: list[dict],
    settings: CaliNETSettings,
    text: Mapping[int, Tensor],
) -> bool:
    """Train a block in place; whether every token of every target is below the loss that ends it.

    Args:
        model: named in messages.
        beside: all rows.
        rows: the same: those of facts, which have targets, and of the text.
        block: with its starting values.
        groups: as of `rates`.
        settings: of the method.
        text: by row of the text, log-probabilities that are to stay.

    Raises:
        TracerError: a loss that is not finite.
    """
    from transformers.optimization import Adafactor

    optimizer = Adafactor(groups, scale_parameter=False, relative_step=False, warmup_init=False)
    facts = [place for place, row in enumerate(rows) if row.target]
    chunks = [facts[i : i + settings.batch_size] for i in range(0, len(facts), settings.batch_size)]
    for _ in track(range(settings.steps), "slots"):
        worst, lines = 0.0, []
        for chunk in chunks:
            line, highest = _backward(beside, rows, block, chunk, settings, text)
            lines.append(line)
            worst = max(worst, highest)
            if not block.curve and len(lines) == 1:  # nothing is trained yet
                check_numbers(model, torch.tensor(line))
            if not all(map(math.isfinite, line)):
                raise NotFinite(
                    f"the loss of slots is not finite after {len(block.curve)} steps on {model.name} in {model.dtype}; "
                    "take a smaller lr, or load the model with dtype=torch.float32"
                )
            if len(chunks) == 1 and worst < settings.stop_loss:
                break
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        block.curve.append([sum(column) / len(lines) for column in zip(*lines, strict=True)])
        if worst < settings.stop_loss:
            return True
    return not settings.stop_loss


def _backward(
    beside: Beside,
    rows: Sequence[Row],
    block: Block,
    chunk: list[int],
    settings: CaliNETSettings,
    text: Mapping[int, Tensor],
) -> tuple[list[float], float]:
    """Put gradients of one step in place; its losses, and the highest loss of a token."""
    tokens = sum(len(rows[place].target) for place in chunk)
    kept = sum(map(len, text.values()))
    nll = kl = highest = 0.0
    for found in beside.run(block.added(), frozenset([*chunk, *text])):
        parts = []
        for place, log_probs in found.items():
            if place in text:
                before = text[place].to(log_probs.device)
                own = F.kl_div(log_probs, before, log_target=True, reduction="sum") / kept
                kl += float(own.detach())
                parts.append(settings.kl_weight * own)
            elif place in chunk:
                targets = torch.tensor(rows[place].target, device=log_probs.device)
                each = -log_probs.gather(-1, targets[:, None]).squeeze(-1)
                highest = max(highest, float(each.detach().max()))
                nll += float(each.detach().sum()) / tokens
                parts.append(each.sum() / tokens)
        if parts:
            torch.stack(parts).sum().backward()
    return [nll + settings.kl_weight * kl, nll, kl], highest


def _uniform(shape: tuple[int, int], inner: int, draw: torch.Generator) -> Tensor:
    bound = 1 / math.sqrt(inner)
    return torch.empty(shape).uniform_(-bound, bound, generator=draw)
