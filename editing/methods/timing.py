"""Where the seconds of an edit go: parts of it are named where they happen, and added up by whoever asks."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked: ContextVar[dict[str, float] | None] = ContextVar("asked", default=None)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Inside, the seconds of every `part` by name, of this thread; a part that runs several times is summed."""
    seconds: dict[str, float] = {}
    token = _asked.set(seconds)
    try:
        yield seconds
    finally:
        _asked.reset(token)


@contextmanager
def part(name: str) -> Iterator[None]:
    """What runs inside is the part `name`; costs nothing where nobody asks. Parts do not lie in one another."""
    seconds, began = _asked.get(), time.monotonic()
    try:
        yield
    finally:
        if seconds is not None:
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
