"""Records and facts of a file or of a named set: those that could be read, and the problems of the rest."""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from editing.questions.record import EditRecord
from tracer.errors import DataSetNotFound, RecordFieldError, RecordFileError, TracerError
from tracer.facts.fact import Fact
from tracer.files import Row, new_file, plain, read_rows, unfolded
from tracer.progress import track

from . import sets
from .fields import FieldError, optional, text
from .layouts import Layout, is_record, layout_of, recognise
from .problems import Problem, RecordWarning, listed
from .snippets import with_snippets
from .unused import Unused, Watched, unused_of

SHOWN = 10  # kinds of problems an error lists; the rest is counted
_FIELD = re.compile(r"(?:the )?(prompt|subject|target_new|target_true|target)\b")


@dataclass(frozen=True)
class Loaded:
    """Contents of a file or set.

    Attributes:
        records: those that could be loaded, in their order.
        problems: one for each of the others, in their order.
        layout: name of the layout.
        files: files read.
        unused: fields with texts that the layout does not read.
    """

    records: tuple[EditRecord, ...]
    problems: tuple[Problem, ...]
    layout: str
    files: tuple[str, ...]
    unused: tuple[Unused, ...] = ()


def load_records(
    path_or_name: str | Path,
    *,
    layout: str | None = None,
    limit: int | None = None,
    split: str | None = None,
    skip: int = 0,
    strict: bool | None = None,
) -> list[EditRecord]:
    """The records of a file, or of a set with a name.

    Args:
        path_or_name: a file (JSON, JSON lines, CSV, TSV or Parquet, packed or not); or a set: "factworld" (split
            "train", "validation" or "test"; "fresh", drawn anew about subjects of "train"), "counterfact", "zsre",
            "knowedit:wiki_recent", "mquake", "ripple:popular", ... These are looked for in the folder that the
            environment variable TRACER_DATA names, then on the hub, where any data set can be named as "owner/name" or
            "owner/name:split". A file counts before a set.
        layout: name of a layout; None: recognised from the fields of the first records. "zsre-true" writes the true
            answer, as ROME and MEMIT do, where "zsre" writes the alternative.
        limit: the first so many records; None: all.
        split: part of a set, of a file whose records have a field `split`, or the name of one of several lists.
        skip: leave out so many at the beginning.
        strict: True: refuse a file with wrong records as a whole. False: load what can be loaded, and warn of the rest.
            None: True for a file, False for a set, whose flaws its users cannot mend.

    Raises:
        TracerError: nothing to be read; or, with `strict`, records that are wrong, all in one message with file, line,
            record and field.

    Warns:
        RecordWarning: without `strict`, how many records were left out, and why (the first few); and once per file
            which fields with texts are not used.
    """
    loaded = read_records(path_or_name, layout=layout, limit=limit, split=split, skip=skip)
    _tell_problems(loaded, path_or_name, strict)
    _tell_unused(loaded.unused, loaded.layout)
    return list(loaded.records)


def _tell_unused(unused: Sequence[Unused], layout: str) -> None:
    """Warn of unused fields, once per file."""
    for file in dict.fromkeys(one.file for one in unused):
        fields = ", ".join(f"{one.field} (records: {one.records:,})" for one in unused if one.file == file)
        told = f"{file}: nothing is made of {fields}; the layout {layout} does not read that"
        warnings.warn(told, RecordWarning, stacklevel=3)


def _tell_problems(loaded: Loaded, path_or_name: str | Path, strict: bool | None) -> None:
    if not loaded.problems:
        return
    count, every = len(loaded.problems), len(loaded.problems) + len(loaded.records)
    what = f"{count:,} of {every:,} records of {path_or_name} cannot be used"
    if (_is_path(path_or_name) if strict is None else strict) or not loaded.records:
        repair = "correct them, or load the others with strict=False"
        raise RecordFieldError(f"{what}; {repair}\n{listed(loaded.problems, SHOWN)}")
    warnings.warn(f"{what} and are left out\n{listed(loaded.problems, 3)}", RecordWarning, stacklevel=3)


def read_records(
    path_or_name: str | Path,
    *,
    layout: str | None = None,
    limit: int | None = None,
    split: str | None = None,
    skip: int = 0,
) -> Loaded:
    """As [`editing.datasets.load_records`][], with the problems as values.

    Wrong are records without the fields of their layout, without the subject in the prompt, whose new target is the old
    one, and those with a case id that came before. Records without a case id are numbered from 0, with " (no id)"
    behind numbers that are the ids of others.

    Args:
        path_or_name: a file, or a set with a name.
        layout: name of a layout; None: recognised.
        limit: the first so many records; None: all.
        split: part of a set or file.
        skip: leave out so many at the beginning.

    Raises:
        TracerError: nothing to be read, broken JSON, no records, no layout that fits.
    """
    for name, value in (("limit", limit), ("skip", skip)):
        if value is not None and (not isinstance(value, int) or value < (name == "limit")):
            raise RecordFileError(f"{name} is {value!r}; expected a whole number from {int(name == 'limit')}")
    given = layout_of(layout) if layout is not None else None
    with _uncollected():
        rows, source = _rows(path_or_name, split)
        if skip >= len(rows):
            left = f", and skip leaves out {skip}" if rows else "; expected at least one"
            raise RecordFileError(f"{path_or_name} holds {len(rows) or 'no'} records{left}")
        mappings = [row.value for row in rows if isinstance(row.value, Mapping)]
        found = given or recognise(mappings, str(path_or_name), _what(rows))
        source = source or found.source or found.name
        records, problems, unused = _converted(rows[skip:], found, mappings, source, skip, limit)
        if found.name == "counterfact":
            records = with_snippets(records, rows)
    files = tuple(dict.fromkeys(row.file for row in rows))
    return Loaded(tuple(records), tuple(problems), found.name, files, tuple(unused))


def records_of(given: Iterable[Any], layout: str | None = None) -> list[EditRecord]:
    """Records from mappings in one of the layouts that files have, such as `tracer.factworld.records()`.

    Args:
        given: mappings, or EditRecords.
        layout: name of a layout; None: recognised.

    Raises:
        TracerError: anything else, and for records that are wrong, all in one message.

    Warns:
        RecordWarning: fields with texts are not used.
    """
    rows = [Row("the list", number, None, plain(value)) for number, value in enumerate(given, 1)]
    mappings = [row.value for row in rows if isinstance(row.value, Mapping)]
    if not mappings:
        raise RecordFileError("the list holds no records; expected mappings, or EditRecords")
    found = layout_of(layout) if layout is not None else recognise(mappings, "the list")
    with _uncollected():
        records, problems, unused = _converted(rows, found, mappings, found.source or found.name, 0, None)
    if problems:
        what = f"{len(problems):,} of {len(rows):,} records cannot be used; correct them, or leave them out"
        raise RecordFieldError(f"{what}\n{listed(problems, SHOWN)}")
    _tell_unused(unused, found.name)
    return records


def load_facts(path_or_name: str | Path = "known_1000", *, limit: int | None = None) -> list[Fact]:
    """Facts to be traced: the known facts of the ROME paper (`prompt`, `subject`, `attribute`).

    Known facts have no new target, so they are no records. From a file or set of records come the facts to be replaced,
    where these are known: prompt, subject and old target.

    Args:
        path_or_name: a file, or a set with a name.
        limit: the first so many; None: all.

    Raises:
        TracerError: nothing to be read, or facts that cannot be used, all in one message.
    """
    rows, _ = _rows(path_or_name, None)
    if not any(isinstance(row.value, Mapping) and "attribute" in row.value for row in rows):
        loaded = read_records(path_or_name, limit=limit)
        _tell_problems(loaded, path_or_name, None)
        every = [
            request for record in loaded.records for request in record.requests() if request.target_true is not None
        ]
        return [Fact(request.prompt, request.subject, request.target_true) for request in every]
    facts, problems = [], []
    for row in rows[:limit]:
        try:
            value = _mapping(row)
            facts.append(Fact(text(value, "prompt"), text(value, "subject"), text(value, "attribute")))
        except TracerError as error:
            problems.append(_problem(row, None, error, None))
    if problems:
        raise RecordFieldError(f"{len(problems):,} of {len(rows):,} facts cannot be used\n{listed(problems, SHOWN)}")
    return facts


def save_records(path: str | Path, records: Iterable[EditRecord]) -> None:
    """Write records as JSON lines that [`editing.datasets.load_records`][] reads back as they are.

    Args:
        path: of the file.
        records: to write.

    Raises:
        TracerError: the file cannot be written.
    """
    with new_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            file.write(record.model_dump_json(exclude_defaults=True) + "\n")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the search for cycles while half a million objects without any are made: it takes a third of the time."""
    was = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was:
            gc.enable()


def _is_path(path_or_name: str | Path) -> bool:
    return isinstance(path_or_name, Path) or Path(path_or_name).expanduser().exists()


def _rows(path_or_name: str | Path, split: str | None) -> tuple[list[Row], str | None]:
    """Rows of the file or set, and the source of the records (None: given by the layout)."""
    if _is_path(path_or_name):
        return _of_file(path_or_name, split), None
    name = str(path_or_name)
    if name.partition(":")[0] == "factworld":
        from tracer import factworld

        part: Any = name.partition(":")[2] or split
        if part not in (*sets.FACTWORLD, None):
            raise DataSetNotFound(f"factworld has no part {part!r}; choose one of {', '.join(sets.FACTWORLD)}")
        own = factworld.fresh_records() if part == "fresh" else factworld.records(part)
        told = enumerate(own, 1)
        return [
            Row(f"factworld{f':{part}' if part else ''}", number, None, value) for number, value in told
        ], "factworld"
    files, missing = sets.find(name, split)
    source = name if ":" in name or split is None else f"{name}:{split}"
    if missing is None:
        return [row for file in files for row in _of_file(file, None)], source
    rows: list[Row] = []
    for item in sets.fetched(name, missing):
        rows += [item] if isinstance(item, Row) else _of_file(item, None)
    return rows, source


def _of_file(path: str | Path, split: str | None) -> list[Row]:
    whole = list(read_rows(path))
    rows = unfolded(whole, is_record, split)
    named = len(whole) == 1 and isinstance(whole[0].value, Mapping) and isinstance(whole[0].value.get(split), list)
    if split is None or named:
        return rows
    has = {str(row.value["split"]) for row in rows if isinstance(row.value, Mapping) and "split" in row.value}
    if split not in has:
        repair = f"it has {', '.join(sorted(has))}" if has else "its records have no field split; leave it out"
        raise RecordFileError(f"{path} has no split {split!r}: {repair}")
    return [row for row in rows if isinstance(row.value, Mapping) and str(row.value.get("split")) == split]


def _what(rows: Sequence[Row]) -> str:
    """Description of rows without fields."""
    value = next((row.value for row in rows if row.error is None), None)
    kind = {str: "no fields and is a text", list: "no fields and is a list of cells without names"}
    return kind.get(type(value), "no fields")


def _converted(
    rows: Sequence[Row],
    layout: Layout,
    mappings: Sequence[Mapping[str, Any]],
    source: str,
    first: int,
    limit: int | None,
) -> tuple[list[EditRecord], list[Problem], list[Unused]]:
    convert = layout.converter(mappings)
    records: list[EditRecord] = []
    problems: list[Problem] = []
    ids = {case for value in mappings if (case := _id(value)) is not None}
    before: dict[str, Row] = {}
    read: dict[str, tuple[set[str], list[Watched]]] = {}
    for place, row in enumerate(track(rows, "reading records"), first):
        if len(records) == limit:
            break
        case: str | None = None
        try:
            seen, some = read.setdefault(row.file, ({"case_id", "split"}, []))
            value = Watched(_mapping(row), seen)
            some.append(value)
            case = optional(value, "case_id")
            if case is not None and (other := before.setdefault(case, row)) is not row:
                at = f"record {other.number}" + (f" on line {other.line} of {other.file}" if other.line else "")
                raise FieldError("case_id", f"{case!r} is also that of {at}; give every case its own")
            number = f"{place} (no id)" if str(place) in ids else str(place)
            record = convert(value, number if case is None else case, source)
            record.requests()
            records.append(record)
        except (TracerError, ValidationError) as error:
            problems.append(_problem(row, case, error, layout))
    unused = [one for file, (seen, some) in read.items() for one in unused_of(file, some, seen, layout.ignored)]
    return records, problems, unused


def _id(value: Mapping[str, Any]) -> str | None:
    try:
        return optional(value, "case_id")
    except TracerError:  # reported for its record
        return None


def _mapping(row: Row) -> Mapping[str, Any]:
    if row.error is not None:
        raise RecordFieldError(row.error)
    if not isinstance(row.value, Mapping):
        raise RecordFieldError(f"expected a record with named fields, got {str(row.value)[:60]!r}")
    return row.value


def _problem(row: Row, case: str | None, error: Exception, layout: Layout | None) -> Problem:
    names = dict(layout.names) if layout is not None else {}
    field, message = None, str(error)
    if isinstance(error, FieldError):
        field = error.field
    elif isinstance(error, ValidationError):
        first = error.errors()[0]
        field, message = ".".join(str(step) for step in first["loc"]), first["msg"]
    elif (told := _FIELD.match(message)) is not None and row.error is None:
        field = names.get(told[1], told[1])
    return Problem(row.file, row.number, row.line, case, field, message)
