"""Records inside something else: under a name, by id, or as pandas writes a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tracer.errors import RecordFileError

from .rows import Row, decoder

IsRecord = Callable[[Mapping[str, Any]], bool]


def unfolded(rows: Sequence[Row], is_record: IsRecord, part: str | None = None) -> list[Row]:
    """The rows as they are; or, where the one row is not a record but holds some, these.

    A mapping may hold a list of records under a name ("data"; of several lists `part` is the one), records by their id
    (which becomes `case_id`), or a table by columns, by rows or split, as pandas writes it. A text may be JSON. The
    rows of such a file have the line it begins on.

    Raises:
        TracerError: several lists and no `part`, or another.
    """
    if len(rows) != 1 or rows[0].error is not None:
        return list(rows)
    (row,) = rows
    value = row.value
    if isinstance(value, str):
        try:
            value = decoder().decode(value)
        except (json.JSONDecodeError, RecursionError):
            return list(rows)
    if isinstance(value, Mapping):
        if is_record(value):
            return list(rows)
        inside = _inside(value, is_record, row.file, part)
    else:
        inside = value if isinstance(value, list) and value is not row.value else None
    if inside is None:
        return list(rows)
    return [Row(row.file, number, row.line, item) for number, item in enumerate(inside, 1)]


def _inside(value: Mapping[str, Any], is_record: IsRecord, file: str, part: str | None) -> list[Any] | None:
    table = _of_pandas(value)
    if table is not None:
        return table
    lists = {name: item for name, item in value.items() if isinstance(item, list) and item and _all(item, Mapping)}
    if lists:
        return _chosen(lists, file, part)
    if len(value) == 1 and isinstance(item := next(iter(value.values())), Mapping) and not is_record(item):
        return _inside(item, is_record, file, part)
    if value and _all(list(value.values()), Mapping):
        if is_record(next(iter(value.values()))) or _numbered(value):
            return [{"case_id": name, **record} for name, record in value.items()]
        return list(_of_columns({name: dict(column) for name, column in value.items()})) or None
    sizes = {len(item) if isinstance(item, list) else -1 for item in value.values()}
    if len(sizes) == 1 and min(sizes) > 0:
        return list(_of_columns({name: dict(enumerate(column)) for name, column in value.items()}))
    return None


def _chosen(lists: Mapping[str, list[Any]], file: str, part: str | None) -> list[Any]:
    if part is not None and part in lists:
        return lists[part]
    if len(lists) == 1:
        return next(iter(lists.values()))
    named = ", ".join(f"{name} ({len(items):,})" for name, items in lists.items())
    raise RecordFileError(f"{file} holds several lists of records: {named}; choose one of them with split")


def _of_pandas(value: Mapping[str, Any]) -> list[Any] | None:
    """The orients "split", names of columns and rows of cells, and "table", with the index among the columns."""
    names, cells, schema = value.get("columns"), value.get("data"), value.get("schema")
    if not isinstance(cells, list):
        return None
    if isinstance(names, list) and _all(cells, list):
        return [_without_none(dict(zip(map(str, names), row, strict=False))) for row in cells]
    if isinstance(schema, Mapping) and _all(cells, Mapping):
        index = schema.get("primaryKey") or ()
        return [_without_none({name: item for name, item in row.items() if name not in index}) for row in cells]
    return None


def _of_columns(columns: Mapping[str, Mapping[Any, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of columns that all have the same keys; otherwise empty."""
    keys = [list(column) for column in columns.values()]
    if all(each == keys[0] for each in keys):
        for key in keys[0]:
            yield _without_none({name: column[key] for name, column in columns.items()})


def _without_none(record: dict[str, Any]) -> dict[str, Any]:
    # a table has every column in every row
    return {name: item for name, item in record.items() if item is not None}


def is_table(value: Mapping[str, Any]) -> bool:
    """Whether every field is a column: a mapping from numbers, as pandas numbers its rows."""
    columns = list(value.values())
    return bool(columns) and all(isinstance(column, Mapping) and _numbered(column) for column in columns)


def _numbered(column: Mapping[Any, Any]) -> bool:
    return bool(column) and all(str(key).isdecimal() for key in column)


def _all(items: Sequence[Any], kind: type) -> bool:
    return all(isinstance(item, kind) for item in items)
