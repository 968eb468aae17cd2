"""Printed output: text as it is, tables, and the lines that commands have in common."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

PLAIN = str.maketrans({"→": "->", "–": "-", "─": "-", "·": "|", "±": "+-", "…": "...", "⏎": "\\", "⇥": " "})
_held: ContextVar[list[tuple[Any, dict[str, Any]]] | None] = ContextVar("held", default=None)
SEVERED = {None: "nothing severed", "mlp": "MLP severed", "attn": "attention severed"}


def console() -> Console:
    """The console to print on, without highlighting."""
    from rich.console import Console

    return Console(highlight=False)


@contextmanager
def held() -> Iterator[None]:
    """Hold all printing back until the end of the block, also if it ends with an error.

    So what a command writes is written before its first line is printed, whatever becomes of that.
    """
    lines: list[tuple[Any, dict[str, Any]]] = []
    before = _held.set(lines)
    try:
        yield
    finally:
        _held.reset(before)
        for line, settings in lines:
            console().print(line, **settings)


@contextmanager
def any_console() -> Iterator[None]:
    """Let standard output take any text: characters missing from its encoding are replaced."""
    stream = sys.stdout
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is None:  # replaced by something of another kind
        yield
        return
    errors = stream.errors
    reconfigure(errors="replace")
    try:
        yield
    finally:
        if not stream.closed:
            reconfigure(errors=errors)


def _print(line: Any, **settings: Any) -> None:
    lines = _held.get()
    if lines is None:
        console().print(line, **settings)
    else:
        lines.append((line, settings))


def say(text: str = "", style: str | None = None) -> None:
    """Print a line of text as it is, however long."""
    _print(literal(text), style=style, soft_wrap=True)


def only(result: Any) -> None:
    """Print a result as one json document, in the place of all that the command has said.

    Args:
        result: json values, dataclasses, arrays, paths, and lists and dicts of these.
    """
    import json

    from rich.text import Text

    from tracer.plots.export import plain

    lines = _held.get()
    if lines is not None:
        lines.clear()
    _print(Text(json.dumps(plain(result), allow_nan=False, indent=1)), soft_wrap=True)  # ascii: for any console


def literal(text: str) -> Text:
    """Text as it is: no markup, nothing that a terminal would obey."""
    from rich.text import Text

    from tracer.text import printable

    return Text(_fitting(printable(text)), overflow="fold")


def _fitting(text: str) -> str:
    """The text; for a console that does not have its characters, those of this project in plain ones."""
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return text.translate(PLAIN)
    return text


def right(*names: str, whole: bool = False) -> list[Column]:
    """Columns of numbers.

    Args:
        *names: their heads.
        whole: never broken over lines.
    """
    from rich.table import Column

    return [Column(literal(name), justify="right", no_wrap=whole) for name in names]


def table(*columns: Column | str) -> Table:
    """An empty table of the given columns."""
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def show(filled: Table) -> None:
    """Print a table."""
    _print(filled)


def notes(texts: Iterable[str]) -> None:
    """Print remarks for the reader, each once."""
    for text in dict.fromkeys(text for text in texts if text):
        say(text, style="yellow")


def wrote(paths: Iterable[Path]) -> list[Path]:
    """Print the paths of files that were written, and return them."""
    written = list(paths)
    for path in written:
        say(f"wrote {path}")
    return written


def interval(value: float, low: float, high: float) -> str:
    """A value with its interval, as in "+0.1234 [+0.1000, +0.1500]"."""
    return f"{value:+.4f} [{low:+.4f}, {high:+.4f}]"


def severed(rows: Mapping[str | None, Sequence[Any]], layers: Sequence[int], falling: bool) -> None:
    """Print the effect of the last subject token's state, whole and without a module.

    Args:
        rows: of the whole (None) and of each severed module effect, low, high: [layers] each.
        layers: the layer of each column.
        falling: whether effects are below zero, as those on a divergence are.
    """
    import numpy as np

    def strongest(effect: Any) -> int:
        return int(np.nanargmax(-np.asarray(effect) if falling else effect))

    def cell(row: Sequence[Any], column: int) -> str:
        effect, low, high = (float(each[column]) for each in row)
        return f"{effect:+.4f}" if low == effect == high else interval(effect, low, high)

    at = strongest(rows[None][0])
    filled = table("last subject token", *right("peak at layer", "effect", f"effect at layer {layers[at]}"))
    for name, row in rows.items():
        peak = strongest(row[0])
        filled.add_row(SEVERED[name], str(layers[peak]), cell(row, peak), cell(row, at))
    show(filled)
