"""What edits can change of a model: the values of some weights, and some of its memories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from torch import Tensor

from tracer.engine.memories import set_memories
from tracer.files import uninterrupted

from .weights import bits, write

if TYPE_CHECKING:
    from editing.memories.memory import Memory
    from tracer.model import Model


@dataclass(frozen=True, eq=False)
class State:
    """Some weights and memories of a model, as they are or are to be.

    Attributes:
        weights: bits by full name of the weight.
        memories: by name; None for a memory that is not there.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    memories: Mapping[str, Memory | None] = field(default_factory=dict)

    @classmethod
    def of(cls, model: Model, weights: Iterable[str], memories: Iterable[str]) -> State:
        """The named weights, copied, and memories of a model as it is.

        Args:
            model: the model.
            weights: full names.
            memories: names.
        """
        present = memories_of(model)
        return cls(bits(model, weights), {name: present.get(name) for name in memories})

    def before(self, model: Model) -> State:
        """What a model has now where this is to be."""
        return State.of(model, self.weights, self.memories)

    def write(self, model: Model) -> None:
        """Give a model these weights and memories, all of them or not any; a Ctrl-C takes effect afterwards.

        Args:
            model: to be changed; what is not named here stays as it is.
        """
        with uninterrupted():
            write(model, self.weights)  # what can fail comes first, and leaves the weights as they were
            if self.memories:
                wanted = {**memories_of(model), **self.memories}
                set_memories(model, [memory for memory in wanted.values() if memory is not None])

    @contextmanager
    def applied(self, model: Model) -> Iterator[Model]:
        """Context in which a model is like this; afterwards it is as before, to the bit.

        Args:
            model: restored whatever happens.
        """
        before = self.before(model)
        try:
            self.write(model)
            yield model
        finally:
            before.write(model)


def memories_of(model: Model) -> dict[str, Memory]:
    """The memories of a model by name."""
    return {memory.name: cast("Memory", memory) for memory in model.memories}
