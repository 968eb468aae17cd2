"""What a method is to use of what was prepared: what was given, or what is shipped for the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.errors import NotPrepared
from tracer.files import tensors as tensorfile

from .prepared import FORMAT, Prepared, load_prepared

if TYPE_CHECKING:
    from tracer.model import Model

SHIPPED = Path(__file__).parents[1] / "data" / "prepared"
Given = Prepared | str | Path | Sequence[Prepared] | None


def prepared_for(model: Model, method: str, given: Given = None, origin: str | None = None) -> Prepared:
    """What a method is to use, checked against the model.

    Args:
        model: to be edited.
        method: name of the method.
        given: a value, the path of its file, several values of which that of the method is taken, or None for what is
            shipped for the model.
        origin: hash of the weights before any edit, for which it may have been made too.

    Raises:
        TracerError: nothing was given and nothing is shipped; or it was made for another model or method.
    """
    if isinstance(given, str | Path):
        given = load_prepared(given)
    if not isinstance(given, Prepared):
        own = [each for each in given or () if each.method == method]
        given = own[0] if own else _shipped(model, method, origin)
    if given is None:
        raise NotPrepared(
            f"{method} needs what is prepared once for a model, and nothing was given for {model.name}; make it with "
            f"prepared = editing.prepare(model, {method!r}, records) and pass prepared=prepared, or with "
            f"tracer prepare {method} RECORDS --out FILE and pass --prepared FILE"
        )
    given.check(model, method, origin)
    return given


def _shipped(model: Model, method: str, origin: str | None) -> Prepared | None:
    file = SHIPPED / f"{method}-{model.name}.safetensors"
    if not file.exists():
        return None
    made_on = tensorfile.read(file, FORMAT, names=())[1]["fingerprint"]
    return load_prepared(file) if made_on in (model.weights_fingerprint(made_on), origin) else None
