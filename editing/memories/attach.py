"""Memories on a model: attached, taken off, or there for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tracer.engine.memories import remembering, set_memories
from tracer.errors import MemoryMisfit

from .memory import Memory

if TYPE_CHECKING:
    from tracer.model import Model


def attach(model: Model, memory: Memory, force: bool = False) -> None:
    """Let a memory act in everything that a model does from now on. `Editor` keeps a history of it instead.

    Args:
        model: the model; its parameters, buffers and modules stay as they are.
        memory: what it is to have.
        force: also if it was made on other weights.

    Raises:
        TracerError: a memory of other weights, of another width, or of a name that the model has a memory of.
    """
    _check(memory, model, force)
    set_memories(model, [*model.memories, memory])


def detach(model: Model, name: str) -> None:
    """Take a memory off a model.

    Args:
        model: the model.
        name: of the memory.

    Raises:
        TracerError: it has none of this name.
    """
    memory_named(model, name)
    set_memories(model, [memory for memory in model.memories if memory.name != name])


def memory_named(model: Model, name: str) -> Any:
    """The memory of a model with this name.

    Args:
        model: with memories or without.
        name: of the memory.

    Raises:
        TracerError: it has none of this name.
    """
    found = {memory.name: memory for memory in model.memories}
    if name not in found:
        raise MemoryMisfit(f"{model.name} has no memory {name!r}; it has {', '.join(map(repr, found)) or 'none'}")
    return found[name]


@contextmanager
def attached(model: Model, memory: Memory, force: bool = False) -> Iterator[Model]:
    """Context in which a model has a memory besides those it has.

    Args:
        model: as of `attach`.
        memory: as of `attach`.
        force: as of `attach`.
    """
    _check(memory, model, force)
    with remembering(model, [*model.memories, memory]):
        yield model


def _check(memory: Memory, model: Model, force: bool) -> None:
    if force:
        memory.acts.check(memory, model)
    else:
        memory.check(model)
