"""Progress bars for anything that takes more than about two seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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

    The single task has id 0: ``progress.advance(progress.task_ids[0])``.
    """
    console = _console()
    quiet = not (console.is_terminal or console.is_jupyter)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = _Patient(*columns, console=console, transient=True, disable=quiet)
    progress.add_task(description, total=total)
    try:
        yield progress
    finally:
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
