"""Requests from a file: JSON (a list, or one record), JSON lines, or CSV with a line of names."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracer import TracerError

from ..probes import Probes
from ..request import EditRequest

EXPECTED = (
    'expected records such as {"prompt": "{} is in downtown", "subject": "The Space Needle", "target_new": "Paris"}, '
    "or of CounterFact's layout"
)


def read(path: Path, limit: int | None = None) -> list[tuple[EditRequest, Probes]]:
    """The first ``limit`` requests of a file, each with what its record says to ask.

    Raises TracerError for a file that cannot be read or holds no requests, and for a record that is none; the message
    names the record, and of JSON lines and CSV the line.
    """
    found = []
    for where, record in _records(path):
        if limit is not None and len(found) == limit:
            break
        try:
            found.append((EditRequest.of(record), Probes.of(record)))
        except TracerError as error:
            raise TracerError(f"{where}: {error}") from error
    if not found:
        raise TracerError(f"{path} holds no requests; {EXPECTED}")
    return found


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """Every record, with what it is called in errors."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TracerError(f"cannot read the requests in {path} ({reason}); expected JSON, JSON lines or CSV") from error
    if path.suffix.lower() == ".csv":
        yield from _lines_of_csv(path, text)
        return
    # one line of JSON lines is also a JSON text of its own; of several lines only a list or one record spread over them
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    by_line = path.suffix.lower() in (".jsonl", ".ndjson") or (len(lines) > 1 and _is_record(lines[0][1]))
    if by_line:
        for number, line in lines:
            try:
                record = json.loads(line)
            except ValueError as error:
                raise TracerError(f"{path}, line {number} is no JSON ({error}); {EXPECTED}, one a line") from error
            yield f"{path}, line {number}", record
        return
    if not lines:
        return
    try:
        content = json.loads(text)
    except ValueError as error:
        raise TracerError(f"{path} is no JSON ({error}); {EXPECTED}, in a list or one a line") from error
    for number, record in enumerate(content if isinstance(content, list) else [content], 1):
        yield f"{path}, record {number}", record


def _is_record(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _lines_of_csv(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    reader = csv.DictReader(text.splitlines(keepends=True), strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise TracerError(f"{where} has not as many fields as the first line; expected {len(row)}")
            yield where, {name.strip(): value for name, value in row.items() if value.strip()}
    except csv.Error as error:
        raise TracerError(f"{path}, line {reader.line_num} is no CSV ({error}); {EXPECTED}") from error
