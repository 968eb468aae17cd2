"""What kinds with entries check of a memory before it is attached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracer.errors import MemoryMisfit

from .lines import unpacked

if TYPE_CHECKING:
    from tracer.model import Model

    from .memory import Memory


def check_parts(memory: Memory, tensors: Sequence[str], header: Sequence[str]) -> None:
    """Raise TracerError where a memory lacks a tensor or a word of its header."""
    missing = [name for name in tensors if name not in memory.tensors]
    missing += [name for name in header if name not in memory.header]
    if missing:
        raise MemoryMisfit(
            f"{missing[0]!r} of the memory {memory.name!r} is missing; a memory of kind {memory.kind} has "
            f"{', '.join((*tensors, *header))}. Make it again"
        )


def check_width(memory: Memory, name: str, model: Model, of: str, dims: int = 2) -> None:
    """Raise TracerError where a tensor of `dims` dimensions is not as wide as the model's `of`."""
    tensor, width = memory.tensors[name], int(getattr(model, of))
    if tensor.dim() != dims or tensor.shape[-1] != width:
        raise MemoryMisfit(
            f"the tensor {name!r} of the memory {memory.name!r} is {list(tensor.shape)}; expected a last dimension of "
            f"{width}, the {of} of {model.name}. Make the memory on this model, or load the one it is of"
        )


def check_choice(memory: Memory, name: str, choices: Sequence[str]) -> None:
    """Raise TracerError where a word of the header is none of those known."""
    if memory.header.get(name) not in choices:
        raise MemoryMisfit(
            f"{name!r} of the memory {memory.name!r} is {memory.header.get(name)!r}; expected one of "
            f"{', '.join(map(repr, choices))}. What was saved by a later version needs that one"
        )


def check_about(memory: Memory, count: int) -> None:
    """Raise TracerError where the texts of a memory are not one line for each entry."""
    try:
        found = len(unpacked(memory.tensors["about"]))
    except ValueError:
        found = -1
    if found != count:
        raise MemoryMisfit(
            f"the texts ('about') of the memory {memory.name!r} are not one line for each of its {count} entries; make "
            "it again"
        )


def others(memory: Memory, entry: int, count: int) -> list[int]:
    """The other entries of a memory of `count`.

    Raises:
        TracerError: there is no such entry.
    """
    if not 0 <= entry < count:
        raise MemoryMisfit(f"the memory {memory.name!r} has no entry {entry}; it has {count}, counted from 0")
    return [place for place in range(count) if place != entry]
