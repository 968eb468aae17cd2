"""Results in a notebook: a small table of what a result holds, with every text escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tracer.text import printable

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 20


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> str:
    """HTML of a table; texts are shown as they are, whatever is in them.

    Args:
        title: above the table.
        head: names of the columns.
        rows: their cells; numbers have four digits, and rows after the twentieth are only counted.
        note: below the table, if there is one.
    """
    rows = list(rows)
    lines = [f"<tr>{''.join(f'<th>{_cell(name)}</th>' for name in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{_cell(cell)}</td>' for cell in row)}</tr>" for row in rows[:MOST_ROWS]]
    below = [f"… and {len(rows) - MOST_ROWS} more rows"] * (len(rows) > MOST_ROWS) + [note] * bool(note)
    paragraphs = "".join(f"<p>{_cell(text)}</p>" for text in below)
    return f"<div><p><b>{_cell(title)}</b></p><table>{''.join(lines)}</table>{paragraphs}</div>"


def html_of(title: str, frame: pd.DataFrame, note: str = "") -> str:
    """HTML of a data frame, as `html_table` makes it."""
    return html_table(title, list(map(str, frame.columns)), frame.itertuples(index=False, name=None), note)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
    return html.escape(printable(text))
