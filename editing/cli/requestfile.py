"""Requests from a file: JSON (a list, or one record), JSON lines, CSV with a line of names, ..."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from editing.questions.probes import Probes
from editing.request import EditRequest
from tracer.errors import CommandFileError, TracerError
from tracer.files import Row, read_rows, unfolded

EXPECTED = (
    'expected records such as {"prompt": "{} is in downtown", "subject": "The Space Needle", "target_new": "Paris"}, '
    "or of CounterFact's layout"
)


def read(path: Path, limit: int | None = None) -> list[tuple[EditRequest, Probes]]:
    """Requests of a file, each with the questions of its record.

    Args:
        path: of the file.
        limit: the first so many; None: all.

    Raises:
        TracerError: a file that cannot be read or holds no requests, and an invalid record; the message names the
            record and its line.
    """
    found = []
    for row in _rows(path):
        if limit is not None and len(found) == limit:
            break
        where = f"{path}, {f'line {row.line}, ' if row.line is not None else ''}record {row.number}"
        if row.error is not None:
            raise CommandFileError(f"{where}: {row.error}; {EXPECTED}")
        try:
            found.append((EditRequest.of(row.value), Probes.of(row.value)))
        except TracerError as error:
            raise CommandFileError(f"{where}: {error}") from error
    if not found:
        raise CommandFileError(f"{path} holds no requests; {EXPECTED}")
    return found


def _rows(path: Path) -> list[Row]:
    return unfolded(list(read_rows(path)), _is_request)


def _is_request(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("prompt"), str) or "prompt" in (value.get("requested_rewrite") or ())
