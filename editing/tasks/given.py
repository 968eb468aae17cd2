"""What all trainings of copies check and draw: settings by name, no memories in the way, batches in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from editing.health.harm import Check
from tracer.errors import HyperparameterError, KnownAlready, MemoryInTheWay

if TYPE_CHECKING:
    from tracer.model import Model

Settings = TypeVar("Settings")


def settings_of(kind: type[Settings], given: Mapping[str, Any], name: str) -> Settings:
    """Settings from keyword arguments.

    Args:
        kind: their class.
        given: by name.
        name: of the function, for the message.

    Raises:
        TracerError: a name that they do not have, an invalid value.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if wrong := next((each for each in given if each not in known), None):
        raise HyperparameterError(f"{name} has no setting {wrong!r}; it has {', '.join(known)}")
    return kind(**given)


def as_json(settings: Any) -> dict[str, Any]:
    """Settings as json values.

    Args:
        settings: a dataclass.
    """
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(settings).items()}


def check_start(model: Model, check: Check) -> None:
    """Pass if a copy of the model may be trained.

    Args:
        model: to be copied.
        check: what is to be done about harm.

    Raises:
        TracerError: memories, or another value of `check`.
    """
    if check not in ("warn", "refuse", None):
        raise KnownAlready(f"check is {check!r}; expected 'warn', 'refuse' or None")
    if model.memories:
        raise MemoryInTheWay(
            f"{model.name} has memories ({', '.join(memory.name for memory in model.memories)}), beside which its "
            "weights would be trained for something else; take them off first"
        )


@dataclass
class Passed:
    """Counts batches in a row that are done with, so that training ends when a whole pass is, and not at an easy batch.

    Attributes:
        needed: batches of a pass.
        count: in a row so far.
    """

    needed: int
    count: int = 0

    @classmethod
    def of(cls, count: int, size: int) -> Passed:
        """For so many rows in batches of a size."""
        return cls(-(-count // size))

    def note(self, done: bool) -> bool:
        """Take down whether a batch is done with; whether a whole pass is."""
        self.count = self.count + 1 if done else 0
        return self.count >= self.needed


def batches(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Places, each once in a drawn order, and again; all of them, in order, where they fit into a batch.

    Args:
        count: of the places; of none, empty batches.
        size: of a batch.
        seed: of the order.
    """
    random, order = Random(seed), list(range(count))
    while True:
        if count > size:
            random.shuffle(order)
        for start in range(0, max(1, count), size):
            yield order[start : start + size]
