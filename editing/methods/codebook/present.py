"""The memory that an edit goes on from, and what may not differ from it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from editing.memories.memory import Memory
from tracer.errors import HyperparameterError

if TYPE_CHECKING:
    from tracer.model import Model


def present(model: Model, name: str, kind: str) -> Memory | None:
    """The memory of a name that a model has.

    Args:
        model: the model.
        name: of the memory.
        kind: that it has to be of.

    Raises:
        TracerError: it is of another kind.
    """
    found = next((memory for memory in model.memories if memory.name == name), None)
    if found is None:
        return None
    if not isinstance(found, Memory) or found.kind != kind:
        other = getattr(found, "kind", type(found).__name__)
        raise HyperparameterError(
            f"the memory {name!r} of {model.name} is of kind {other!r}, not {kind!r}; give this one another name, such "
            f"as name='{kind}-2'"
        )
    return found


def matching(model: Model, before: Memory, header: Mapping[str, Any]) -> None:
    """Pass if an edit's entries can stand beside those of a memory.

    Args:
        model: which has it.
        before: the memory.
        header: of the memory that the edit would make.

    Raises:
        TracerError: the first word of the header that differs.
    """
    for name, value in header.items():
        if before.header[name] != value:
            raise HyperparameterError(
                f"the memory {before.name!r} of {model.name} has {name}={before.header[name]!r}, and this edit asks "
                f"for {value!r}; leave that to it, or give this one another name, such as name='{before.kind}-2'"
            )


def chosen(name: str, value: Any, known: Collection[str]) -> None:
    """Pass if a setting is one of those known.

    Args:
        name: of the setting.
        value: as given.
        known: all there are.

    Raises:
        TracerError: another one.
    """
    if not isinstance(value, str) or value not in known:
        raise HyperparameterError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
