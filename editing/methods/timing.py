"""Seconds of the parts of an edit: parts are named where they run, and summed by a caller of `timed`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_asked: ContextVar[dict[str, float] | None] = ContextVar("asked", default=None)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Context that yields the seconds of every `part` by name, of this thread.

    A part that runs several times is summed.
    """
    seconds: dict[str, float] = {}
    token = _asked.set(seconds)
    try:
        yield seconds
    finally:
        _asked.reset(token)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Context of the part `name`; costs nothing outside of `timed`. Parts do not nest."""
    seconds, began = _asked.get(), time.monotonic()
    try:
        yield
    finally:
        if seconds is not None:
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
