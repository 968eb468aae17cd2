"""The default covariance of an edit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tracer.files import tensors as tensorfile

from .covariance import FORMAT, SHIPPED, Covariance
from .estimate import estimate_covariance

if TYPE_CHECKING:
    from tracer.model import Model


def covariance_for(model: Model, layers: Iterable[int], fingerprint: str | None = None) -> Covariance:
    """The default covariance of an edit of a model at some layers.

    That of the package, for the embedded model as it is; else that of the default text, from the cache or estimated now
    (see [`editing.estimate_covariance`][]).

    Args:
        model: to be edited.
        layers: of the edit.
        fingerprint: of the weights a model had before it was edited; theirs is used if available. Keys change only
            above the lowest layer edited, and little.
    """
    layers = list(layers)
    expected = model.fingerprint() if fingerprint is None else fingerprint
    if SHIPPED.exists() and tensorfile.read(SHIPPED, FORMAT, names=())[1].get("fingerprint") == expected:
        return Covariance.load(SHIPPED, layers=layers)
    return estimate_covariance(model, layers, origin=fingerprint)
