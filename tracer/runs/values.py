"""Values in SQLite: encoding and decoding."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tracer.errors import JobError

LARGEST = 10**9
"""Most bytes of one value; SQLite's limit."""


def encoded(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], table: str) -> Iterator[list[Any]]:
    """Each row's column job_nan, and its values.

    Raises:
        TracerError: columns and values that cannot be kept.
    """
    for row in rows:
        if not isinstance(row, Mapping):
            raise JobError(f"a row of {table!r} is {row!r}; expected a mapping from column to value")
        if unknown := [name for name in row if name not in columns]:
            raise JobError(f"table {table!r} has no column {unknown[0]!r}; it has {', '.join(columns)}")
        values = [value(row.get(column), f"column {column!r} of {table!r}") for column in columns]
        nans = [str(i) for i, one in enumerate(values) if isinstance(one, float) and math.isnan(one)]
        yield [",".join(nans) or None, *values]


def value(given: Any, where: str) -> Any:
    """A value as SQLite keeps it: text, int, float, bytes or None. Truth values become 0 and 1.

    Raises:
        TracerError: any other; `where` names it in the message.
    """
    if hasattr(given, "item") and getattr(given, "ndim", None) == 0:  # a number of numpy or torch
        given = given.item()
    if given is None or isinstance(given, float):
        return given if given is None else float(given)
    if isinstance(given, int):
        if not -(2**63) <= given < 2**63:
            raise JobError(f"{where} is {given}; whole numbers are kept in 64 bits, write it as text")
        return int(given)
    if isinstance(given, str):
        try:
            size = len(given.encode())
        except UnicodeEncodeError as error:
            raise JobError(f"{where} is no text that can be kept ({error}); write it as bytes") from error
    elif isinstance(given, bytes | bytearray | memoryview):
        given = bytes(given)
        size = len(given)
    else:
        raise JobError(f"{where} is {type(given).__name__}; expected text, int, float, bytes or None")
    if size > LARGEST:
        raise JobError(f"{where} is {size:,} bytes; one value may have {LARGEST:,}, keep it in parts")
    return given


def decoded(row: Sequence[Any]) -> list[Any]:
    """The values of a row that begins with job_nan."""
    nans, values = row[0], list(row[1:])
    for place in nans.split(",") if nans else ():
        values[int(place)] = math.nan
    return values
