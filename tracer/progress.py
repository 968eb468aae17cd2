"""Progress bars for anything that takes more than about two seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
_inside: ContextVar[bool] = ContextVar("inside", default=False)  # whether work at hand is a part of a bar's


def _console() -> Console:
    # standard error, so that a piped standard output holds results only
    return Console(file=sys.stderr)


class _Patient(Progress):
    """Appears once the work has taken longer than ``patience`` seconds; quick work draws nothing at all."""

    patience = 1.0

    def __init__(self, *columns: ProgressColumn, **settings: Any) -> None:
        super().__init__(*columns, **settings)
        self._begun = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if not self.live.is_started and time.monotonic() - self._begun > self.patience:
            self.start()


@contextmanager
def bar(description: str, total: float | None) -> Iterator[Progress]:
    """A progress bar on standard error that draws nothing where there is no terminal or notebook to draw on.

    Inside another bar it draws nothing either, and with TRACER_PROGRESS=0 in the environment none does. The single task
    has id 0: ``progress.advance(progress.task_ids[0])``.
    """
    console = _console()
    shown = console.is_terminal or console.is_jupyter
    quiet = not shown or _inside.get() or os.environ.get("TRACER_PROGRESS") == "0"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = _Patient(*columns, console=console, transient=True, disable=quiet)
    progress.add_task(description, total=total)
    before = _inside.get()
    _inside.set(True)
    try:
        yield progress
    finally:
        _inside.set(before)  # not reset: a loop that was left may end in another context
        if progress.live.is_started:
            progress.stop()


def track(iterable: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """Yield from ``iterable`` while a bar shows how far it is."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    with bar(description, total) as progress:
        for item in iterable:
            yield item
            progress.advance(progress.task_ids[0])
