"""Files of records: JSON, JSON lines, CSV, TSV and Parquet, packed or not, with the line where each record begins."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tracer.errors import RecordFileError, TracerError, out_of_memory

from .opened import PARQUET, content_of, suffix_of, text_of

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
CELLS = {".csv": (",", ";", "\t"), ".tsv": ("\t",), ".tab": ("\t",)}  # separators of cells
DEEP = "it is nested too deep to be read; records have a few levels at most"
_BLANK = re.compile(r"[ \t\r\n]*")
_WHOLE = re.compile(r"-?\d+\.0")


@dataclass(frozen=True)
class Row:
    """One record as it was found.

    Attributes:
        file: where it was found.
        number: which one it is, from 1.
        line: the line it begins on, from 1; None: it comes from no file, or from one without lines.
        value: what was read.
        error: why nothing could be read; None: it could.
    """

    file: str
    number: int
    line: int | None
    value: Any = None
    error: str | None = None


def is_file_of_rows(name: str) -> bool:
    """Whether a file of this name is read here."""
    return suffix_of(Path(name)) in SUFFIXES


def read_rows(path: str | Path) -> Iterator[Row]:
    """The records of a file: JSON (a list of records, or one), JSON lines, CSV or TSV with a line of names, Parquet.

    The file may be packed with gzip, bzip2 or xz. NaN becomes None, and whole numbers have no point.

    Raises:
        TracerError: a folder, a file that cannot be read or is empty, and JSON that is broken or cut off (with line and
            character). A broken line of JSON lines or CSV is a row with `error`.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        inside = sorted(file.name for file in path.iterdir() if is_file_of_rows(file.name))
        has = f"it has {', '.join(inside[:10])}" if inside else "it has none"
        raise RecordFileError(f"{path} is a folder; give one of its files of records ({has})")
    content = content_of(path)
    if content.startswith(PARQUET):
        return _of_parquet(path, content)
    text = text_of(path, content)
    if not text.strip():
        raise RecordFileError(f"{path} is empty; expected records in JSON, JSON lines or CSV")
    suffix = suffix_of(path)
    if suffix in CELLS:
        return _of_cells(str(path), text, CELLS[suffix])
    if suffix in (".jsonl", ".ndjson") or _is_lines(text):
        return _of_lines(str(path), text)
    return _of_json(str(path), text)


def plain(value: Any) -> Any:
    """A value of pandas, numpy or JSON as mappings, lists, texts and numbers; NaN becomes None.

    Whole numbers have no point: a column of years with one missing is one of floats. Other values are left as they are.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        value = float(value)  # numpy's are floats too
        return None if not math.isfinite(value) else int(value) if value.is_integer() else value
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist())
    if type(value).__name__ in ("NAType", "NaTType"):  # of pandas
        return None
    return value


def _number(text: str) -> int | float | None:
    return plain(float(text))


def decoder() -> json.JSONDecoder:
    """A decoder of JSON with values as by `plain`."""
    return json.JSONDecoder(parse_float=_number, parse_constant=lambda name: None)


# --- JSON ------------------------------------------------------------------------------------------------------------
def _is_lines(text: str) -> bool:
    """Whether the first line is a whole record and something follows it."""
    first, _, rest = text.lstrip().partition("\n")
    if not first.startswith("{") or not rest.strip():
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _of_lines(file: str, text: str) -> Iterator[Row]:
    decode = decoder().decode
    number = 0
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        number += 1
        try:
            yield Row(file, number, line, decode(content))
        except ValueError as error:
            yield Row(file, number, line, error=f"the line is no JSON ({error})")
        except RecursionError:
            yield Row(file, number, line, error=DEEP)


def _of_json(file: str, text: str) -> Iterator[Row]:
    """A list is read record by record: that tells where each begins, and costs no more than reading it at once."""
    decode = decoder().raw_decode
    at, line, number = _after_blank(text, 0), 1, 0
    line += text.count("\n", 0, at)
    if text[at] != "[":
        value, at = _decode(decode, file, text, at, 1, line)
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
        value, place = _decode(decode, file, text, at, number, line)
        yield Row(file, number, line, value)
        place = _after_blank(text, place)
        mark = text[place : place + 1]
        if mark == "]":
            break
        if mark != ",":
            raise _broken(file, text, place, number, "a comma or ] belongs after the record")
        place += 1
    _nothing_after(file, text, place + 1)


def _decode(
    decode: Callable[[str, int], tuple[Any, int]], file: str, text: str, at: int, number: int, line: int
) -> tuple[Any, int]:
    try:
        return decode(text, at)
    except json.JSONDecodeError as error:
        raise _broken(file, text, error.pos, number, f"{error.msg}; the record begins on line {line}") from error
    except ValueError as error:  # a number of thousands of digits
        raise _broken(file, text, at, number, str(error)) from error
    except RecursionError as error:
        raise RecordFileError(f"{file}, line {line}, record {number}: {DEEP}") from error


def _broken(file: str, text: str, at: int, number: int, why: str) -> TracerError:
    line, character = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    # an unclosed string is reported where it begins, so the place of the error says little about the end of the file
    cut = not text.rstrip().endswith(("]", "}"))
    hint = "; the file seems cut off: fetch it again" if cut else "; correct the file there"
    return RecordFileError(f"{file} is no JSON: record {number}, line {line}, character {character}: {why}{hint}")


def _nothing_after(file: str, text: str, at: int) -> None:
    rest = _after_blank(text, at)
    if rest < len(text):
        line = text.count("\n", 0, rest) + 1
        raise RecordFileError(
            f"{file} is no JSON: something follows the end of the records on line {line} ({text[rest : rest + 20]!r}); "
            "a file of one record a line is named .jsonl, one of cells .csv or .tsv"
        )


def _after_blank(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at


# --- tables ----------------------------------------------------------------------------------------------------------
def _of_cells(file: str, text: str, marks: Sequence[str]) -> Iterator[Row]:
    """Records of cells. Empty ones are left out; one that begins with [ or { and is JSON, or Python's, is parsed."""
    head = text.lstrip("\n").partition("\n")[0]
    mark = max(marks, key=head.count)  # the first of those that are as frequent
    found = list(_split_into_cells(file, text, mark))
    tables = [row.value for row in found if row.error is None]
    names = list(tables[0]) if tables else []
    floats = {name for name in names if _is_of_floats([cells[name] for cells in tables])}
    for row in found:
        if row.error is None:
            cells = {name: cell[:-2] if name in floats else cell for name, cell in row.value.items() if cell.strip()}
            # a column of numbers without a name is pandas' index
            kept = {name: _cell(cell) for name, cell in cells.items() if name or not cell.isdecimal()}
            row = replace(row, value=kept)
        yield row


def _split_into_cells(file: str, text: str, mark: str) -> Iterator[Row]:
    # not str.splitlines, which also splits at characters that do not end lines in CSV
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=mark)
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
                raise RecordFileError(f"{file} names the column {twice[0]!r} twice on line {begins}; rename one")
            continue
        number += 1
        if len(cells) != len(names):
            yield Row(file, number, begins, error=f"{len(cells)} cells, and the first line names {len(names)}")
            continue
        yield Row(file, number, begins, dict(zip(names, cells, strict=True)))


def _is_of_floats(column: Sequence[str]) -> bool:
    """Whether pandas made whole numbers floats: it does where some are missing, and only then this is sure."""
    there = [cell for cell in column if cell.strip()]
    return 0 < len(there) < len(column) and all(_WHOLE.fullmatch(cell) for cell in there)


def _cell(cell: str) -> Any:
    inner = cell.strip()
    if inner[0] + inner[-1] in ("[]", "{}"):
        for read in (decoder().decode, ast.literal_eval):  # pandas writes lists as Python does
            try:
                value = plain(read(inner))
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(value, list | dict):
                return value
    return cell


def _of_parquet(path: Path, content: bytes) -> Iterator[Row]:
    import pandas as pd

    try:
        table = pd.read_parquet(io.BytesIO(content))
    except ImportError as error:
        raise RecordFileError(
            f"{path} is a Parquet file; install pyarrow to read it, or save it as JSON lines"
        ) from error
    except Exception as error:  # pyarrow's own kinds
        if out_of_memory(error):
            raise
        raise RecordFileError(f"{path} is a damaged Parquet file ({error}); fetch it again") from error
    for number, record in enumerate(table.to_dict("records"), 1):
        # a table has every column in every row
        value = {str(key): item for key, item in plain(record).items() if item is not None}
        yield Row(str(path), number, None, value)
