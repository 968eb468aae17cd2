"""Changes of whole tensors, of any shape, as a full fine-tuning makes them; U V^T would save nothing there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tracer.errors import EditOfOtherWeights, NotFinite

from .weights import check_editable, parameter, rounded

if TYPE_CHECKING:
    from tracer.model import Model

Deltas = Mapping[str, Tensor]
_BLOCK = 1 << 20  # numbers in double precision at a time: 8 MB


def moved(weight: Tensor, delta: Tensor) -> Tensor:
    """W + D, summed in double precision and rounded once to the type of W.

    Args:
        weight: W, of any shape.
        delta: D, of the same.
    """
    device = torch.device("cpu") if weight.device.type == "mps" else weight.device  # no double precision there
    new = torch.empty_like(weight, requires_grad=False)
    before, change, after = weight.detach().reshape(-1), delta.reshape(-1), new.view(-1)
    for start in range(0, before.numel(), _BLOCK):
        some = slice(start, start + _BLOCK)
        total = before[some].to(device, torch.float64) + change[some].to(device, torch.float64)
        after[some] = rounded(total, weight.dtype)
    return new


@torch.no_grad()
def proposed(model: Model, deltas: Deltas) -> dict[str, Tensor]:
    """New value of every weight in the deltas, on its device; nothing is written.

    Args:
        model: to be edited.
        deltas: changes by full name of the weight.

    Raises:
        TracerError: a weight that cannot be edited, a change of another shape, or a result that is not finite.
    """
    check_editable(model, deltas)
    new = {}
    for name, delta in deltas.items():
        weight = parameter(model, name)
        if weight.shape != delta.shape:
            raise EditOfOtherWeights(
                f"the change of {name!r} is {list(delta.shape)}, but the weight is {list(weight.shape)}; expected a "
                "change of the same shape"
            )
        new[name] = moved(weight, delta)
        if not torch.isfinite(new[name]).all():
            raise NotFinite(
                f"the edit would make {name!r} of {model.name} not finite in {weight.dtype} (NaN or infinity); nothing "
                "was changed. Use a smaller learning rate or factor, or load the model with a wider dtype"
            )
    return new


def random_like(deltas: Deltas, norms: Mapping[str, float], generator: torch.Generator) -> dict[str, Tensor]:
    """Changes of the same shapes and Frobenius norms in random directions.

    Args:
        deltas: changes.
        norms: of these.
        generator: draws the directions.
    """
    found = {}
    for name, delta in deltas.items():
        drawn = torch.randn(delta.shape, generator=generator)
        found[name] = drawn * (norms[name] / float(drawn.double().norm()))
    return found
