"""The activation function of a model's MLPs by name, for neurons that a memory puts beside them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tracer.engine.hooks import capture
from tracer.engine.sites import Site
from tracer.errors import MemoryMisfit, TracerError

if TYPE_CHECKING:
    from tracer.model import Model

NAMES = ("relu", "gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "relu2", "tanh")
"""Functions without parameters of their own, as transformers names them."""
FALLBACK = "gelu"
_SAME = {"swish": "silu", "gelu_fast": "gelu_new", "gelu_python": "gelu"}  # to rounding
_FIELDS = ("hidden_act", "activation_function", "hidden_activation", "activation")  # of configurations
_CLOSE = 1e-4  # of the largest activation


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """A function by its name.

    Args:
        name: one of `NAMES`.

    Raises:
        TracerError: another name.
    """
    from transformers.activations import ACT2FN

    if name not in NAMES:
        raise MemoryMisfit(f"activation {name!r} is unknown here; expected one of {', '.join(NAMES)}")
    return ACT2FN[name]


def activation_of(model: Model, layer: int) -> str:
    """Name of the function that a layer's MLP has between its projections, from its configuration or as measured.

    Where it has parameters of its own, or cannot be told, the name of a plain one that does as well beside it.

    Args:
        model: the model.
        layer: whose MLP it is.
    """
    config: Any = model.hf.config.get_text_config()
    for field in _FIELDS:
        named = getattr(config, field, None)
        named = _SAME.get(named, named) if isinstance(named, str) else None
        if named in NAMES:
            return named
    with suppress(TracerError):
        found = measured(model, layer)
        if found is not None:
            return found
    return FALLBACK


def measured(model: Model, layer: int) -> str | None:
    """The function that maps what a layer's activation takes to what its down-projection takes; None: none of `NAMES`.

    None too for gated MLPs, where a product comes between.

    Args:
        model: the model.
        layer: whose MLP it is.

    Raises:
        TracerError: an MLP without one of these two sites.
    """
    pre, key = Site("pre", layer), Site("key", layer)
    ids = [[token % model.n_tokens for token in range(1, 2 + min(6, model.n_ctx - 1))]]
    with torch.no_grad():
        states = capture(model, torch.tensor(ids), [pre, key])
    taken, given = states[pre].double(), states[key].double()
    gaps = {name: float((activation(name)(taken) - given).abs().max()) for name in NAMES}
    nearest = min(gaps, key=lambda name: gaps[name])  # gelu and its approximations are near one another
    return nearest if gaps[nearest] <= _CLOSE * float(given.abs().max()) else None
