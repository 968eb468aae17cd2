"""Interface of a method of editing: hyper-parameters, and a function from requests to changes of weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from editing.edits.weights import Factors
from editing.memories.change import MemoryChange
from editing.request import EditRequest

if TYPE_CHECKING:
    from tracer.model import Model

Group = Sequence[EditRequest]


@dataclass(frozen=True, eq=False)
class Change:
    """Result of a method for one group of requests.

    Attributes:
        factors: as in [`editing.Edit`][].
        settings: hyper-parameters as used; json values.
        evidence: arrays that led to the change, by name.
        note: a remark for the reader, or "".
        memories: changes of memories, as in [`editing.Edit`][].
    """

    factors: Factors
    settings: Mapping[str, Any]
    evidence: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""
    memories: tuple[MemoryChange, ...] = ()


@dataclass(frozen=True)
class Method:
    """A method by name.

    Attributes:
        name: as passed to [`editing.compute_edit`][].
        settings: frozen dataclass of hyper-parameters; a field that is None is computed from the model.
        plan: `plan(model, groups, settings)` gives one change per group. Every group stands alone: its change is
            computed on the model as it is. The model is left as found; gradients of parameters are off (`frozen`) and
            dropout is off (`evaluating`) when it is called.
        layers: field of the settings that takes the layers found by [`editing.localisation.choose.locate`][]; None if
            there is no such field.
        single: whether the method writes at one layer (the best is taken), rather than at a range.
        summary: one line for help texts.
    """

    name: str
    settings: type
    plan: Callable[[Model, Sequence[Group], Any], list[Change]]
    layers: str | None = "layers"
    single: bool = False
    summary: str = ""
