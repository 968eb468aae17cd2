"""A copy of a model that is trained, and what became of its weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from editing.edits.weights import check_editable

if TYPE_CHECKING:
    from tracer.model import Model

Given = TypeVar("Given")
SHARE = 1 / 3000  # of the weights' size, that a step of AdamW moves a weight by


def differences(
    model: Model, layers: Sequence[int] | None, train: Callable[[Model, list[Tensor]], Given]
) -> tuple[dict[str, Tensor], Given]:
    """What training changes: of each parameter the difference, those that did not move left out; and what it gives.

    Args:
        model: of which a copy in float32 is trained; it stays as it is.
        layers: blocks whose parameters are trained; None: all parameters, each once.
        train: takes the copy and the parameters that ask for gradients.

    Raises:
        TracerError: weights that cannot be edited, a layer that does not exist.
    """
    names = [name for name, _ in model.hf.named_parameters()]
    if layers is not None:
        blocks = tuple(f"{model.path('hidden', layer)}." for layer in layers)
        names = [name for name in names if name.startswith(blocks)]
    check_editable(model, names)
    copied = replace(model, hf=copy.deepcopy(model.hf).float())
    copied.hf.requires_grad_(False)
    parameters = {name: copied.hf.get_parameter(name).requires_grad_() for name in names}
    found = train(copied, list(parameters.values()))
    moved = {
        name: parameter.detach() - model.hf.get_parameter(name).detach().float()
        for name, parameter in parameters.items()
    }
    return {name: delta for name, delta in moved.items() if bool(delta.any())}, found


def measured_rate(model: Model) -> float:
    """Rate of AdamW at which a step moves a weight by a three thousandth of the down-projections' size.

    Args:
        model: to be trained.
    """
    weights = [model.down_projection(layer).weight.detach() for layer in range(model.n_layers)]
    return SHARE * math.sqrt(sum(float(weight.float().pow(2).mean()) for weight in weights) / len(weights))
