"""Routers by name, from what was prepared for a model, or from nothing where they are controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from editing.memories.routing.router import Router, taken
from tracer.errors import HyperparameterError, NotPrepared, PreparedForOther

if TYPE_CHECKING:
    from editing.methods.context import EditContext
    from editing.prepared.prepared import Prepared

PLAIN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "string": ("threshold", "string", {"threshold": 0.0}),
    "random": ("nearest", "random", {}),
}
"""Rule, features and settings of controls, for which nothing is prepared."""
MEASURED = ("states", "margin", "nearest", "overlap")
"""Those that are measured on a model, without training (`measure.measured`)."""
TRAINED = {"classifier": "serac", "sentinel": "recipe", "fixed": "recipe"}
"""Those that were trained, and the method they were prepared for."""
NAMES = (*MEASURED, *TRAINED, *PLAIN)


def router_for(context: EditContext, given: str | Router, settings: Mapping[str, Any], method: str) -> Router:
    """A router by its name.

    Args:
        context: serves what was prepared.
        given: its name, or a router.
        settings: of the router, in the place of its own.
        method: that asks; what was prepared for it counts first, then what was prepared for rase.

    Raises:
        TracerError: an unknown name; nothing was prepared for it; a setting that it does not have.
    """
    found = _found(context, given, method)
    wrong = [name for name in settings if name not in found.settings]
    if wrong:
        raise HyperparameterError(
            f"the router {given!r} has no setting {wrong[0]!r}; it has {', '.join(found.settings) or 'none'}"
        )
    return found.set(**settings) if settings else found


def checked(given: Any) -> None:
    """Pass if a setting is a router or the name of one.

    Args:
        given: the setting.

    Raises:
        TracerError: it is neither.
    """
    if not isinstance(given, Router) and given not in NAMES:
        raise HyperparameterError(f"router is {given!r}; expected one of {', '.join(map(repr, NAMES))}, or a Router")


def _found(context: EditContext, given: str | Router, method: str) -> Router:
    checked(given)
    if isinstance(given, Router):
        return given
    if given in PLAIN:
        return Router(*PLAIN[given])
    if given == "classifier":
        return classifier_of(context.prepared_for(TRAINED[given]))
    if given in ("sentinel", "fixed"):
        prepared = context.prepared_for(TRAINED[given])
        found = Router.of(prepared.header, prepared.tensors)
        if given == "sentinel":
            return found
        tensors = {name: each for name, each in found.tensors.items() if name != "sentinel"}
        return Router("threshold", found.features, {**found.settings, "threshold": prepared.header["fixed"]}, tensors)
    return measured_of(_measured(context, method), given)


def _measured(context: EditContext, method: str) -> Prepared:
    if method != "rase":
        try:
            own = context.prepared_for(method)
            if "routers" in own.header:
                return own
        except (NotPrepared, PreparedForOther):  # the other one's message says what to do
            pass
    return context.prepared_for("rase")


def measured_of(prepared: Prepared, name: str) -> Router:
    """A router that was measured on a model.

    Args:
        prepared: with "routers" in its header.
        name: one of `MEASURED`.
    """
    told = prepared.header["routers"][name]
    tensors = taken(prepared.tensors, f"{told['features']}/")
    return Router(told["rule"], told["features"], told["settings"], tensors)


def classifier_of(prepared: Prepared, threshold: float = 0.5) -> Router:
    """SERAC's classifier as a router.

    Args:
        prepared: for serac.
        threshold: above which an edit acts.
    """
    tensors = {name: each for name, each in prepared.tensors.items() if not name.startswith("answering")}
    header = prepared.header
    settings = {
        "scope": {"known_by": "prompt", **header["scope"]},
        "comparison": header["similarity"],
        "width": header["width"],
        "threshold": threshold,
    }
    return Router("threshold", "classifier", settings, tensors)


def stored(routers: Mapping[str, Router]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and header of what is prepared, from which `measured_of` takes routers again.

    Args:
        routers: by name; those with the same features have the same tensors.
    """
    tensors = {
        f"{router.features}/{name}": each for router in routers.values() for name, each in router.tensors.items()
    }
    return tensors, {"routers": {name: router.header() for name, router in routers.items()}}
