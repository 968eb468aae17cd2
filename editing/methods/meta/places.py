"""The matrices that a meta-learned editor edits, by name: "4.down" is the down-projection of the MLP of layer 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tracer.checks import layers as checked_layers
from tracer.engine.layout import answering_layers
from tracer.errors import HyperparameterError
from tracer.model import orientation

if TYPE_CHECKING:
    from tracer.model import Model

PROJECTIONS = ("gate", "up", "down")
"""Matrices of an MLP; see [`tracer.Model.projections`][]."""
LAST = 3  # blocks edited by default


@dataclass(frozen=True)
class Place:
    """A matrix that is edited.

    Attributes:
        key: layer and name of the projection, such as "4.down".
        path: of its module in `model.hf`.
        orientation: how it is stored: "in_out" (Conv1D) or "out_in" (Linear).
        width: of its input and of its output.
    """

    key: str
    path: str
    orientation: str
    width: tuple[int, int]

    @property
    def layer(self) -> int:
        """Its layer."""
        return int(self.key.partition(".")[0])

    @property
    def weight(self) -> str:
        """Full name of the parameter."""
        return f"{self.path}.weight"

    @property
    def shape(self) -> str:
        """Input x output: matrices of one shape share a net."""
        return f"{self.width[0]}x{self.width[1]}"


def places_of(model: Model, keys: Sequence[str]) -> tuple[Place, ...]:
    """Places by their keys, in this order.

    Args:
        model: to be edited.
        keys: such as "4.down".

    Raises:
        TracerError: a layer or a projection that the model does not have.
    """
    found = []
    for key in keys:
        layer, _, name = key.partition(".")
        paths = model.projections(int(layer))
        if name not in paths:
            raise HyperparameterError(
                f"layer {layer} of {model.name} has no projection {name!r} that is a matrix of its own; it has "
                f"{', '.join(paths)}"
            )
        module: Any = model.hf.get_submodule(paths[name])
        stored = orientation(module, paths[name])
        rows, columns = module.weight.shape
        width = (rows, columns) if stored == "in_out" else (columns, rows)
        found.append(Place(key, paths[name], stored, (int(width[0]), int(width[1]))))
    return tuple(found)


def keys_of(model: Model, layers: Sequence[int] | None, projections: Sequence[str] | None) -> tuple[str, ...]:
    """Keys of the places at some layers, layer by layer.

    Args:
        model: to be edited.
        layers: of the matrices; None: the last three, of the decoder where there is one.
        projections: some of `PROJECTIONS`, in the order in which a layer's are listed; None: all that a layer has.

    Raises:
        TracerError: a layer that the model does not have.
    """
    known, able = model.n_layers, answering_layers(model)
    chosen = able[-LAST:] if layers is None else checked_layers(layers, known, kind=HyperparameterError)
    return tuple(f"{layer}.{name}" for layer in chosen for name in projections or model.projections(layer))
