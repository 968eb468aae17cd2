"""The matrix that edits write to, as a model stores it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from . import architecture


@dataclass(frozen=True, eq=False)
class DownProjection:
    """The matrix that turns an MLP's keys into values.

    With weights offloaded by accelerate it lies on the `meta` device and is empty.

    Attributes:
        name: the weight's full parameter name in `model.hf`.
        weight: the model's own parameter: `[d_mlp, d_model]` or `[d_model, d_mlp]`, by `orientation`.
        orientation: `"in_out"` (Conv1D) for the former, `"out_in"` (Linear) for the latter.
    """

    name: str
    weight: nn.Parameter
    orientation: str

    def factors(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """U and V of a change of the weight, which is U V^T as the weight is stored.

        With `keys` [d_mlp, r] and `values` [d_model, r] a key k then gives values keys^T k more than before.
        """
        return architecture.as_stored(self.orientation, keys, values)

    def by_key(self, stored: Tensor) -> Tensor:
        """A matrix that is stored as the weight is, as [d_mlp, d_model]: a row for each unit of the MLP."""
        return stored if self.orientation == "in_out" else stored.T
