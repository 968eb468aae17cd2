"""Progress bars for anything that takes more than about two seconds."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
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
Listener = Callable[[str, float, float | None], None]
_inside: ContextVar[bool] = ContextVar("inside", default=False)  # whether work at hand is a part of a bar's
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


def _console() -> Console:
    # standard error, so that a piped standard output holds results only
    return Console(file=sys.stderr)


class _Patient(Progress):
    """Appears once the work has taken longer than `patience` seconds; quick work draws nothing at all."""

    patience = 1.0

    def __init__(self, *columns: ProgressColumn, **settings: Any) -> None:
        super().__init__(*columns, **settings)
        self._begun = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        if not self.live.is_started and time.monotonic() - self._begun > self.patience:
            self.start()


class _Told(Progress):
    """Draws nothing, and tells a listener what it would have drawn."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(disable=True)
        self._listener = listener

    def add_task(self, *args: Any, **settings: Any) -> TaskID:
        task_id = super().add_task(*args, **settings)
        self._tell(task_id)
        return task_id

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(task_id)

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        self._tell(task_id)

    def _tell(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        self._listener(task.description, task.completed, task.total)


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Let bars tell `listener(description, done, total)` how far they are and draw nothing, in this context only.

    The outermost bar is heard, at its beginning and at every advance. One of a single step, which reports nothing until
    it is over, is passed over for those inside it. `total` is None where it is not known. What the listener raises goes
    through the work that advanced the bar.
    """
    told, inside = _listener.set(listener), _inside.set(False)
    try:
        yield
    finally:
        _listener.reset(told)
        _inside.reset(inside)


@contextmanager
def bar(description: str, total: float | None) -> Iterator[Progress]:
    """A progress bar on standard error that draws nothing where there is no terminal or notebook to draw on.

    Inside another bar it draws nothing either, nor with TRACER_PROGRESS=0 in the environment. Where somebody listens
    (`heard`) it is told instead of drawn. The single task has id 0: `progress.advance(progress.task_ids[0])`.
    """
    before, listener = _inside.get(), _listener.get()
    passed_over = listener is not None and total == 1
    if listener is not None and not before and not passed_over:
        progress: Progress = _Told(listener)
    else:
        console = _console()
        shown = (console.is_terminal or console.is_jupyter) and listener is None
        quiet = not shown or before or os.environ.get("TRACER_PROGRESS") == "0"
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = _Patient(*columns, console=console, transient=True, disable=quiet)
    progress.add_task(description, total=total)
    _inside.set(before or not passed_over)
    try:
        yield progress
    finally:
        _inside.set(before)  # not reset: a loop that was left may end in another context
        if progress.live.is_started:
            progress.stop()


def track(iterable: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """Yield from `iterable` while a bar shows how far it is."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    with bar(description, total) as progress:
        for item in iterable:
            yield item
            progress.advance(progress.task_ids[0])
