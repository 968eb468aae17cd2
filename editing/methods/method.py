"""Interface of a method of editing: hyper-parameters, what it needs, and a function from requests to changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from editing.edits.weights import Factors
from editing.memories.change import MemoryChange
from editing.prepared.work import Preparation
from editing.request import EditRequest

if TYPE_CHECKING:
    from tracer.model import Model

    from .context import EditContext

Group = Sequence[EditRequest]
Layers = Literal["one", "range", "none"]
Need = Literal["covariance", "origin", "earlier", "max_rows", "prepared"]


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
        plan: `plan(model, groups, settings, context)` gives one change per group. Every group stands alone: its change
            is computed on the model as it is. The model is left as found; gradients of parameters are off (`frozen`)
            and dropout is off (`evaluating`) when it is called.
        needs: what it takes from the context besides requests and hyper-parameters. Each may be passed to
            [`editing.compute_edit`][] under its name: "covariance", second moments of keys (None: see
            [`editing.covariance_for`][]); "origin", the hash of the weights before any edit, whose covariance is meant
            (None: the model as it is; an editor gives it); "earlier", edits whose keys are to keep their values (an
            editor gives them); "max_rows", prompts run at once (None: by memory; the numbers do not depend on it);
            "prepared", what [`editing.prepare`][] made for the method, or its file (None: what is shipped for it).
        layers: number of layers it writes at: "one" (of a located range the best is taken), a "range", or "none". With
            the former two its settings have a field `layers`.
        located: whether it is to write where a fact is located. One that keeps its edits beside the model has reasons
            of its own for a layer, and is not given the one that a trace suggests unless somebody asks for it.
        masked: whether it edits masked models too.
        seq2seq: whether it edits encoder-decoder models.
        neurons: whether its settings have a field `neurons`, that a [`tracer.NeuronAttribution`][] fills in.
        seeded: whether its settings have a field `seed`.
        writes: whether it changes weights, which have to be editable then; one that only makes memories does not, and
            takes quantised models too.
        preparation: how it is prepared for a model; None: there is nothing to prepare.
        summary: one line for help texts.
    """

    name: str
    settings: type
    plan: Callable[[Model, Sequence[Group], Any, EditContext], list[Change]]
    needs: frozenset[Need] = frozenset()
    layers: Layers = "range"
    located: bool = True
    masked: bool = False
    seq2seq: bool = False
    neurons: bool = False
    seeded: bool = False
    writes: bool = True
    preparation: Preparation | None = None
    summary: str = ""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names that [`editing.compute_edit`][] takes for it: hyper-parameters, then needs."""
        return (*(field.name for field in fields(self.settings)), *sorted(self.needs))
