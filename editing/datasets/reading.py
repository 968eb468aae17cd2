"""Files of records: JSON, JSON lines and CSV, with the line where each record begins."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracer import TracerError

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv")
_BLANK = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True)
class Row:
    """One record as it was found.

    Attributes:
        file: where it was found.
        number: which one it is, from 1.
        line: the line it begins on, from 1; None: it comes from no file.
        value: what was read.
        error: why nothing could be read; None: it could.
    """

    file: str
    number: int
    line: int | None
    value: Any = None
    error: str | None = None


def read_rows(path: str | Path) -> Iterator[Row]:
    """The records of a file: JSON (a list of records, or one), JSON lines, or CSV with a line of names.

    Raises:
        TracerError: a folder, a file that cannot be read or is empty, and JSON that is broken or cut off (with line and
            character). A broken line of JSON lines or CSV is a row with ``error``.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        has = f"it has {', '.join(inside[:10])}" if inside else "it has none"
        raise TracerError(f"{path} is a folder; give one of its files of records ({has})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise TracerError(
            f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise TracerError(
            f"cannot read {path} ({error.strerror or error}); give a JSON, JSON lines or CSV file"
        ) from error
    if not text.strip():
        raise TracerError(f"{path} is empty; expected records in JSON, JSON lines or CSV")
    if path.suffix.lower() == ".csv":
        return _of_csv(str(path), text)
    if path.suffix.lower() in (".jsonl", ".ndjson") or _is_lines(text):
        return _of_lines(str(path), text)
    return _of_json(str(path), text)


def _is_lines(text: str) -> bool:
    """Whether the first line is a whole record and something follows it."""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def _of_lines(file: str, text: str) -> Iterator[Row]:
    number = 0
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        number += 1
        try:
            yield Row(file, number, line, json.loads(content))
        except ValueError as error:
            yield Row(file, number, line, error=f"the line is no JSON ({error})")


def _of_json(file: str, text: str) -> Iterator[Row]:
    """A list is read record by record: that tells where each begins, and costs no more than reading it at once."""
    decoder = json.JSONDecoder()
    at, line, number = _after_blank(text, 0), 1, 0
    line += text.count("\n", 0, at)
    if text[at] != "[":
        value, at = _decode(decoder, file, text, at, 1, line)
        _nothing_after(file, text, at)
        yield Row(file, 1, line, value)
        return
    place = at + 1
    while True:
        line += text.count("\n", at, place)
        at = place
        place = _after_blank(text, at)
        if number == 0 and text[place : place + 1] == "]":
            break
        line += text.count("\n", at, place)
        at, number = place, number + 1
        value, place = _decode(decoder, file, text, at, number, line)
        yield Row(file, number, line, value)
        place = _after_blank(text, place)
        mark = text[place : place + 1]
        if mark == "]":
            break
        if mark != ",":
            raise _broken(file, text, place, number, "a comma or ] belongs after the record")
        place += 1
    _nothing_after(file, text, place + 1)


def _decode(decoder: json.JSONDecoder, file: str, text: str, at: int, number: int, line: int) -> tuple[Any, int]:
    try:
        return decoder.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _broken(file, text, error.pos, number, f"{error.msg}; the record begins on line {line}") from error


def _broken(file: str, text: str, at: int, number: int, why: str) -> TracerError:
    line, character = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    # an unclosed string is reported where it begins, so the place of the error says little about the end of the file
    cut = not text.rstrip().endswith(("]", "}"))
    hint = "; the file seems cut off: fetch it again" if cut else "; correct the file there"
    return TracerError(f"{file} is no JSON: record {number}, line {line}, character {character}: {why}{hint}")


def _nothing_after(file: str, text: str, at: int) -> None:
    rest = _after_blank(text, at)
    if rest < len(text):
        line = text.count("\n", 0, rest) + 1
        raise TracerError(
            f"{file} is no JSON: something follows the end of the records on line {line} ({text[rest : rest + 20]!r}); "
            "a file of one record a line is named .jsonl"
        )


def _after_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


def _of_csv(file: str, text: str) -> Iterator[Row]:
    """Cells that are empty are left out; one that begins with [ or { and is JSON is what it says."""
    reader = csv.reader(text.splitlines(keepends=True), strict=True)
    names: list[str] | None = None
    line = number = 0
    while True:
        begins = line + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(file, number + 1, begins, error=f"no CSV ({error}); the rest of the file is not read")
            return
        line = reader.line_num
        if not cells:
            continue
        if names is None:
            names = [cell.strip() for cell in cells]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise TracerError(f"{file} names the column {twice[0]!r} twice on line {begins}; rename one")
            continue
        number += 1
        if len(cells) != len(names):
            yield Row(file, number, begins, error=f"{len(cells)} cells, and the first line names {len(names)}")
            continue
        yield Row(
            file, number, begins, {name: _cell(cell) for name, cell in zip(names, cells, strict=True) if cell.strip()}
        )


def _cell(cell: str) -> Any:
    if cell.lstrip()[0] in "[{":
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return cell
