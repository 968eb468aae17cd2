"""Neurons beside an MLP, as kinds of memories that are nothing else give them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Neurons:
    """Neurons beside the MLP of one layer.

    Attributes:
        activation: name of their function.
        keys: [n, d_model].
        biases: [n].
        values: [n, d_model], as they arrive in the residual stream.
    """

    activation: str
    keys: Tensor
    biases: Tensor
    values: Tensor
