"""Progress bars for anything that takes more than about two seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")


def _console() -> Console:
    # standard error, so that a piped standard output holds results only
    return Console(file=sys.stderr)


@contextmanager
def bar(description: str, total: float | None) -> Iterator[Progress]:
    """A progress bar on standard error that draws nothing where there is no terminal or notebook to draw on.

    The single task has id 0: ``progress.advance(0)``.
    """
    console = _console()
    quiet = not (console.is_terminal or console.is_jupyter)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet) as progress:
        progress.add_task(description, total=total)
        yield progress


def track(iterable: Iterable[T], description: str, total: float | None = None) -> Iterator[T]:
    """Yield from ``iterable`` while a bar shows how far it is."""
    if total is None and hasattr(iterable, "__len__"):
        total = len(iterable)  # type: ignore[arg-type]
    with bar(description, total) as progress:
        for item in iterable:
            yield item
            progress.advance(progress.task_ids[0])
