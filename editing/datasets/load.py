"""Records and facts of a file or of a set with a name: what could be read, and what is wrong with the rest."""

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

from tracer import Fact, TracerError
from tracer.files import new_file
from tracer.progress import track

from . import sets
from .fields import FieldError, optional, text
from .layouts import Layout, layout_of, recognise
from .reading import Row, read_rows
from .record import EditRecord
from .snippets import with_snippets

SHOWN = 100  # problems an error lists; the rest is counted
_FIELD = re.compile(r"(?:the )?(prompt|subject|target_new|target_true|target)\b")


class RecordWarning(UserWarning):
    """Records were left out."""


@dataclass(frozen=True)
class Problem:
    """Why one record was not loaded.

    Attributes:
        file: where it is.
        number: which record, from 1.
        line: the line it begins on, from 1; None: it comes from no file.
        case: its case id; None: not known.
        field: the field that is wrong; None: all of it.
        message: what is wrong.
    """

    file: str
    number: int
    line: int | None
    case: str | None
    field: str | None
    message: str

    def __str__(self) -> str:
        line = f", line {self.line}" if self.line is not None else ""
        case = f" (case {self.case})" if self.case is not None else ""
        return f"{self.file}{line}, record {self.number}{case}: {f'{self.field}: ' if self.field else ''}{self.message}"


@dataclass(frozen=True)
class Loaded:
    """What a file or set gave.

    Attributes:
        records: those that could be loaded, in their order.
        problems: one for each of the others, in their order.
        layout: name of the layout.
        files: what was read.
    """

    records: tuple[EditRecord, ...]
    problems: tuple[Problem, ...]
    layout: str
    files: tuple[str, ...]


def load_records(
    path_or_name: str | Path,
    *,
    layout: str | None = None,
    limit: int | None = None,
    split: str | None = None,
    skip: int = 0,
    strict: bool = True,
) -> list[EditRecord]:
    """The records of a file, or of a set with a name.

    Args:
        path_or_name: a JSON, JSON lines or CSV file; or a set: "factworld" (split "train", "validation" or "test"),
            "counterfact", "zsre", "knowedit:wiki_recent", "mquake", "ripple:popular", ... These are looked for in the
            folder that the environment variable TRACER_DATA names, then on the hub, where any data set can be named as
            "owner/name" or "owner/name:split". A file counts before a set.
        layout: name of a layout; None: recognised from the fields of the first records. "zsre-true" writes the true
            answer, as ROME and MEMIT do, where "zsre" writes the alternative.
        limit: the first so many records; None: all.
        split: part of a set, or of a file whose records have a field ``split``.
        skip: leave out so many at the beginning.
        strict: False: load what can be loaded, and warn of the rest.

    Raises:
        TracerError: nothing to be read; or, with ``strict``, records that are wrong, all in one message with file,
            line, record and field.
    Warns:
        RecordWarning: without ``strict``, how many records were left out, and why (the first few).
    """
    loaded = read_records(path_or_name, layout=layout, limit=limit, split=split, skip=skip)
    if loaded.problems:
        count, every = len(loaded.problems), len(loaded.problems) + len(loaded.records)
        what = f"{count} of {every} records of {path_or_name} cannot be used"
        if strict or not loaded.records:
            repair = "correct them, or load the others with strict=False"
            raise TracerError(f"{what}; {repair}\n{_listed(loaded.problems, SHOWN)}")
        warnings.warn(f"{what} and are left out\n{_listed(loaded.problems, 3)}", RecordWarning, stacklevel=2)
    return list(loaded.records)


def read_records(
    path_or_name: str | Path,
    *,
    layout: str | None = None,
    limit: int | None = None,
    split: str | None = None,
    skip: int = 0,
) -> Loaded:
    """As :func:`load_records`, with the problems as values.

    Wrong are records without the fields of their layout, without the subject in the prompt, whose new target is the old
    one, and those with a case id that came before. Records without a case id are numbered from 0.

    Raises:
        TracerError: nothing to be read, broken JSON, no records, no layout that fits.
    """
    for name, value in (("limit", limit), ("skip", skip)):
        if value is not None and (not isinstance(value, int) or value < (name == "limit")):
            raise TracerError(f"{name} is {value!r}; expected a whole number from {int(name == 'limit')}")
    given = layout_of(layout) if layout is not None else None
    with _uncollected():
        rows, source = _rows(path_or_name, split)
        if skip >= len(rows):
            left = f", and skip leaves out {skip}" if rows else "; expected at least one"
            raise TracerError(f"{path_or_name} holds {len(rows) or 'no'} records{left}")
        mappings = [row.value for row in rows if isinstance(row.value, Mapping)]
        found = given or recognise(mappings, str(path_or_name))
        records, problems = _converted(rows[skip:], found, mappings, source or found.source or found.name, skip, limit)
        if found.name == "counterfact":
            records = with_snippets(records, rows)
    return Loaded(tuple(records), tuple(problems), found.name, tuple(dict.fromkeys(row.file for row in rows)))


def records_of(given: Iterable[Any], layout: str | None = None) -> list[EditRecord]:
    """Records from mappings in one of the layouts that files have, such as ``tracer.factworld.records()``.

    Raises TracerError for anything else, and for records that are wrong, all in one message.
    """
    rows = [Row("the list", number, None, value) for number, value in enumerate(given, 1)]
    mappings = [row.value for row in rows if isinstance(row.value, Mapping)]
    if not mappings:
        raise TracerError("the list holds no records; expected mappings, or EditRecords")
    found = layout_of(layout) if layout is not None else recognise(mappings, "the list")
    with _uncollected():
        records, problems = _converted(rows, found, mappings, found.source or found.name, 0, None)
    if problems:
        what = f"{len(problems)} of {len(rows)} records cannot be used; correct them, or leave them out"
        raise TracerError(f"{what}\n{_listed(problems, SHOWN)}")
    return records


def load_facts(path_or_name: str | Path = "known_1000", *, limit: int | None = None) -> list[Fact]:
    """Facts to be traced: the known facts of the ROME paper (``prompt``, ``subject``, ``attribute``).

    Known facts have no new target, so they are no records. Of a file or set of records it gives what they are to
    replace, where that is known: prompt, subject and old target.

    Raises:
        TracerError: nothing to be read, or facts that cannot be used, all in one message.
    """
    rows, _ = _rows(path_or_name, None)
    if not any(isinstance(row.value, Mapping) and "attribute" in row.value for row in rows):
        records = load_records(path_or_name, limit=limit)
        every = [request for record in records for request in record.requests() if request.target_true is not None]
        return [Fact(request.prompt, request.subject, request.target_true) for request in every]
    facts, problems = [], []
    for row in rows[:limit]:
        try:
            value = _mapping(row)
            facts.append(Fact(text(value, "prompt"), text(value, "subject"), text(value, "attribute")))
        except TracerError as error:
            problems.append(_problem(row, None, error, None))
    if problems:
        raise TracerError(f"{len(problems)} of {len(rows)} facts cannot be used\n{_listed(problems, SHOWN)}")
    return facts


def save_records(path: str | Path, records: Iterable[EditRecord]) -> None:
    """Write records as JSON lines that :func:`load_records` reads back as they are. Raises TracerError as it fails."""
    with new_file(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for record in records:
            file.write(record.model_dump_json(exclude_defaults=True) + "\n")


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for cycles while half a million objects without any are made: it takes a third of the time."""
    was = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was:
            gc.enable()


def _rows(path_or_name: str | Path, split: str | None) -> tuple[list[Row], str | None]:
    """What is there, and what the records are said to come from (None: that follows from the layout)."""
    path = Path(path_or_name).expanduser()
    if path.exists() or isinstance(path_or_name, Path):
        return _of_split(list(read_rows(path)), split), None
    name = str(path_or_name)
    if name.partition(":")[0] == "factworld":
        from tracer import factworld

        part: Any = name.partition(":")[2] or split
        if part not in (*sets.FACTWORLD, None):
            raise TracerError(f"factworld has no part {part!r}; choose one of {', '.join(sets.FACTWORLD)}")
        told = enumerate(factworld.records(part), 1)
        return [
            Row(f"factworld{f':{part}' if part else ''}", number, None, value) for number, value in told
        ], "factworld"
    files, missing = sets.find(name, split)
    source = name if ":" in name or split is None else f"{name}:{split}"
    if missing is None:
        return [row for file in files for row in read_rows(file)], source
    rows: list[Row] = []
    for item in sets.fetched(name, missing):
        rows += [item] if isinstance(item, Row) else read_rows(item)
    return rows, source


def _of_split(rows: list[Row], split: str | None) -> list[Row]:
    if split is None:
        return rows
    has = {str(row.value["split"]) for row in rows if isinstance(row.value, Mapping) and "split" in row.value}
    if split not in has:
        repair = f"it has {', '.join(sorted(has))}" if has else "its records have no field split; leave it out"
        raise TracerError(f"{rows[0].file if rows else 'the file'} has no split {split!r}: {repair}")
    return [row for row in rows if isinstance(row.value, Mapping) and str(row.value.get("split")) == split]


def _converted(
    rows: Sequence[Row],
    layout: Layout,
    mappings: Sequence[Mapping[str, Any]],
    source: str,
    first: int,
    limit: int | None,
) -> tuple[list[EditRecord], list[Problem]]:
    convert = layout.converter(mappings)
    records: list[EditRecord] = []
    problems: list[Problem] = []
    before: dict[str, Row] = {}
    for place, row in enumerate(track(rows, "reading records"), first):
        if len(records) == limit:
            break
        case: str | None = None
        try:
            value = _mapping(row)
            case = optional(value, "case_id")
            if case is not None and (other := before.setdefault(case, row)) is not row:
                at = f"record {other.number}" + (f" on line {other.line} of {other.file}" if other.line else "")
                raise FieldError("case_id", f"{case!r} is also that of {at}; give every case its own")
            record = convert(value, str(place) if case is None else case, source)
            record.requests()
            records.append(record)
        except (TracerError, ValidationError) as error:
            problems.append(_problem(row, case, error, layout))
    return records, problems


def _mapping(row: Row) -> Mapping[str, Any]:
    if row.error is not None:
        raise TracerError(row.error)
    if not isinstance(row.value, Mapping):
        raise TracerError(f"expected a record with named fields, got {str(row.value)[:60]!r}")
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


def _listed(problems: Sequence[Problem], most: int) -> str:
    lines = [f"  {problem}" for problem in problems[:most]]
    return "\n".join([*lines, *([f"  and {len(problems) - most} more"] if len(problems) > most else [])])
