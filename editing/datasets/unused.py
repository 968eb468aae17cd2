"""Unread fields of records: a record remembers which of its fields were read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WORDS = 3  # a text of so many may be a question; shorter ones are names and labels
ASKING = ("prompt", "question", "query", "src")  # a text under one of these is a question whatever its length


@dataclass(frozen=True)
class Unused:
    """A field with texts that the layout does not read.

    Attributes:
        file: name of the file.
        field: its name; within another field both, parted by a dot.
        records: number of records that have it.
    """

    file: str
    field: str
    records: int


class Watched(dict[str, Any]):
    """A record, mappings in it included, that notes in `seen` the fields that are read."""

    def __init__(self, value: Mapping[str, Any], seen: set[str], path: str = "") -> None:
        inside = {
            key: Watched(item, seen, f"{path}{key}.") if isinstance(item, Mapping) else item
            for key, item in value.items()
        }
        super().__init__(inside)
        self._seen, self._path = seen, path

    def __getitem__(self, key: str) -> Any:
        self._seen.add(f"{self._path}{key}")
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key, noted as read."""
        self._seen.add(f"{self._path}{key}")
        return super().get(key, default)

    def items(self) -> Any:
        """Keys and values, noted as read."""
        self._seen.update(f"{self._path}{key}" for key in self)
        return super().items()


def unused_of(file: str, records: Iterable[Watched], seen: set[str], ignored: Sequence[str]) -> list[Unused]:
    """Fields that were not read of any record and hold a text of some words in one of them, except `ignored`."""
    counts: Counter[str] = Counter()
    asking: set[str] = set()
    for record in records:
        for field, value in _unread(record, seen, ""):
            counts[field] += 1
            if field not in asking and _may_ask(value):
                asking.add(field)
    return [Unused(file, field, count) for field, count in counts.items() if field in asking and field not in ignored]


def _unread(record: Watched, seen: set[str], path: str) -> Iterable[tuple[str, Any]]:
    for key in record:
        value = dict.__getitem__(record, key)  # not noted as read
        field = f"{path}{key}"
        if field not in seen:
            yield field, value
        elif isinstance(value, Watched):
            yield from _unread(value, seen, f"{field}.")


def _may_ask(value: Any) -> bool:
    if isinstance(value, str):
        return value.rstrip().endswith("?") or len(re.findall(r"\S+", value)) >= WORDS
    if isinstance(value, Mapping) and any(isinstance(value.get(name), str) and value[name].strip() for name in ASKING):
        return True
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(_may_ask(item) for item in inside)
