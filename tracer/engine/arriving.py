"""The contribution of an MLP's value to the residual stream, and the value that makes a wanted contribution.

Edits write values, what the down-projection gives. In most models that is what arrives in the residual stream. In some
a norm comes between (Gemma 2 and 3, OLMo 2 and 3, GLM-4, EXAONE 4) or a multiplier (Granite). Behind a norm only the
direction of a value counts: what it adds has a fixed length in the norm's own measure, so that a value can turn what
arrives, but not lengthen it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tracer.model import Model

FLAT = 1e-4  # of the largest gain: a dimension below it carries nothing, and is left as it is


@dataclass(frozen=True, eq=False)
class Arrival:
    """The way from a layer's values to the residual stream.

    Attributes:
        factor: what arrives in lengths of what the last module gives.
        gain: [d], float64; what a root-mean-square norm behind the MLP multiplies each dimension with, or None without
            a norm.
        eps: what the norm adds to the mean square.
    """

    factor: float
    gain: Tensor | None = None
    eps: float = 0.0

    @classmethod
    def of(cls, model: Model, layer: int) -> Arrival:
        """The arrival of `model` at `layer`.

        The norm is measured, not guessed: two inputs tell its gain and its eps.
        """
        factor = model.multiplier("mlp")
        if not behind_norm(model, layer):
            return cls(factor)
        norm = model.module("mlp", layer)
        ones = torch.ones(1, 1, model.d_model, dtype=model.dtype, device=next(norm.parameters()).device)
        with torch.no_grad():
            gain = norm(1e3 * ones)[0, 0].double().cpu()
        return cls(factor, gain, float(getattr(norm, "eps", getattr(norm, "variance_epsilon", 0.0))))

    def contribution(self, values: Tensor) -> Tensor:
        """The contribution of `values` [..., d] to the residual stream; float64."""
        values = values.double()
        if self.gain is not None:
            values = values * self.gain / self._size(values)
        return values * self.factor

    def at(self, values: Tensor, present: Tensor) -> Tensor:
        """The contribution of `values` [..., d] if the norm divided by what it divides `present` by; their dtype.

        Linear in the values, and what they do add where they are `present`. A share of a value adds that share of its
        contribution then, which a norm itself undoes.
        """
        if self.gain is None:
            return values * self.factor
        scale = self.gain * self.factor / self._size(present.double())
        return values * scale.to(device=values.device, dtype=values.dtype)

    def values(self, values: Tensor, moved: Tensor) -> Tensor:
        """The values that add what `values` [..., d] add, and `moved` [..., d] more; float64.

        Behind a norm: those of the same length whose contribution has the direction wanted. Where `moved` comes from
        a value (`contribution(new) - contribution(old)`) the contribution is exactly what is wanted, else as long as
        the norm lets it be.
        """
        values, moved = values.double(), moved.double()
        if self.gain is None:
            return values + moved / self.factor
        wanted = (self.contribution(values) + moved) / self.factor
        carried = self.gain.abs() > FLAT * self.gain.abs().max()
        size = self._size(values)
        turned = torch.where(carried, wanted * size / torch.where(carried, self.gain, 1.0), values)
        return turned * size / self._size(turned)

    def _size(self, values: Tensor) -> Tensor:
        return (values.square().mean(-1, keepdim=True) + self.eps).sqrt()


def behind_norm(model: Model, layer: int) -> bool:
    """Whether a norm comes between a layer's MLP and the residual stream."""
    return model.path("mlp", layer) not in (model.path("value", layer), model.path("mlp_input", layer))
