"""Values of neurons, the rows of a down-projection, and the additions to them by which a given change arrives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tracer.engine.arriving import Arrival
from tracer.engine.hooks import Site, capture

if TYPE_CHECKING:
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class Part:
    """Contribution of some neurons of one layer at a token.

    Attributes:
        units: [d_mlp], share of each neuron's value in a step; zero for all others.
        value: [d], float64; output of the layer at the token.
        amount: factor by which an addition per unit changes that value.
        arrival: the way from there to the residual stream.
    """

    units: Tensor
    value: Tensor
    amount: float
    arrival: Arrival

    def written(self, directions: Tensor) -> Tensor:
        """Addition per unit by which directions arrive, times the activation.

        Behind a norm: so that the layer's contribution at the token has the direction that they would give it.

        Args:
            directions: [n, d].
        """
        if self.arrival.gain is None:
            return directions / self.arrival.factor
        if not self.amount:  # silent neurons add nothing, whatever their values
            return torch.zeros_like(directions)
        value = self.value.expand(len(directions), -1)
        added = self.arrival.values(value, self.amount * directions.double().cpu()) - value
        return (added / self.amount).to(directions)


def parts_of(
    model: Model, ids: Sequence[int], token: int, neurons: Sequence[tuple[int, int]], *, in_lengths: bool, signed: bool
) -> dict[int, Part]:
    """The part of every layer that has some of the neurons, at a token of a prompt.

    Args:
        model: the model.
        ids: of the prompt.
        token: place in the prompt.
        neurons: (layer, unit) pairs.
        in_lengths: a unit is the length of the neuron's value as it arrives; else it is 1.
        signed: it is negative where the activation is.
    """
    layers = sorted({layer for layer, _ in neurons})
    sites = {(kind, layer): Site(kind, layer, token) for layer in layers for kind in ("key", "value")}
    states = capture(model, list(ids), list(sites.values()))
    parts = {}
    for layer in layers:
        own = [unit for at, unit in neurons if at == layer]
        key, value = (states[sites[kind, layer]][0].float() for kind in ("key", "value"))
        arrival, rows = Arrival.of(model, layer), values_of(model, layer)[own]
        sizes = arrival.at(rows, value.cpu()).norm(dim=1) if in_lengths else rows.new_ones(len(own))
        sign = torch.where(key[own] < 0, -1.0, 1.0).to(sizes.device) if signed else 1.0
        units = torch.zeros(model.d_mlp, device=sizes.device)
        units[own] = sizes * sign
        parts[layer] = Part(units, value.double().cpu(), float(units @ key.to(units.device)), arrival)
    return parts


def values_of(model: Model, layer: int) -> Tensor:
    """Values of a layer's neurons, [d_mlp, d_model], float32."""
    down = model.down_projection(layer)
    weight = down.weight.detach().float()
    return down.by_key(weight)


@contextmanager
def moved(model: Model, units: Mapping[int, Tensor], directions: Mapping[int, Tensor]) -> Iterator[None]:
    """Context in which row i of a forward has the values of neurons moved along a direction.

    Args:
        model: the model.
        units: by layer, share of each neuron.
        directions: by layer, one direction for each row.
    """

    def moving(own: Tensor, along: Tensor) -> Any:
        def after(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            size = (args[0].float() @ own.to(args[0].device)).view(len(along), -1, 1)  # [rows, tokens, 1]
            step = size * along.to(size.device)[:, None]
            return (output.float() + step.view(output.shape)).to(output.dtype)

        return after

    with ExitStack() as stack:
        for layer, own in units.items():
            hook = moving(own, directions[layer])
            stack.callback(model.module("key", layer).register_forward_hook(hook).remove)
        yield
