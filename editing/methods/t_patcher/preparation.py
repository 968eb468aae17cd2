"""States of a text at which patches are not to be active, measured once for a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from editing.covariance.states import states_over_text
from editing.prepared.prepared import Prepared
from editing.prepared.work import Made, Preparation, Work
from tracer.checks import whole
from tracer.errors import HyperparameterError, PreparedForOther

if TYPE_CHECKING:
    from pathlib import Path

    from editing.methods.context import EditContext
    from tracer.model import Model

METHOD_NAME = "t_patcher"


@dataclass(frozen=True)
class TPatcherPreparation:
    """Settings of the preparation of Transformer-Patcher.

    Attributes:
        layer: beside whose MLP patches are to stand; None: the last.
        tokens: of the text, at each of which what enters the MLP is kept.
        text: as in [`editing.estimate_covariance`][]: a file, or the name of a data set.
    """

    layer: int | None = None
    tokens: int = 8192
    text: str | Path | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", None if self.text is None else str(self.text))
        whole("tokens", self.tokens, 1, kind=HyperparameterError)
        if self.layer is not None:
            whole("layer", self.layer, kind=HyperparameterError)


def make(model: Model, settings: TPatcherPreparation, work: Work) -> Made:
    """Read the text up to the layer.

    Raises:
        TracerError: a layer that the model does not have, an invalid text.
    """
    layer = model.n_layers - 1 if settings.layer is None else settings.layer
    model.path("mlp_in", layer)
    return Made(
        {"states": states_over_text(model, layer, settings.tokens, settings.text, cache=False)}, {"layer": layer}
    )


def states_for(model: Model, layer: int, tokens: int, context: EditContext) -> Tensor:
    """What was prepared for the method, or states of the default text, which are read now or taken from the cache.

    Args:
        model: to be edited.
        layer: beside whose MLP patches are to stand.
        tokens: of the default text.
        context: serves the method.

    Raises:
        TracerError: what was prepared is of another model or layer.
    """
    given = context.prepared
    several = not (given is None or isinstance(given, Prepared | str) or hasattr(given, "__fspath__"))
    if given is None or (several and all(each.method != METHOD_NAME for each in given)):  # type: ignore[union-attr]
        return context.states(layer, tokens)
    found = context.prepared_for(METHOD_NAME)
    if found.header.get("layer") != layer:
        raise PreparedForOther(
            f"this was prepared for {METHOD_NAME} at layer {found.header.get('layer')} of {found.model}, and patches "
            f"are to stand at layer {layer}; make one of this layer with editing.prepare(model, {METHOD_NAME!r}, "
            f"layer={layer}), or leave prepared out"
        )
    return found.tensors["states"]


PREPARATION = Preparation(TPatcherPreparation, make, records=False, summary="states where patches are not to be active")
