"""Problems of records, and their messages: similar ones in one line, with the places where they were found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tracer.errors import TracerNote

PLACES = 12  # of problems that are alike, shown
_VARIES = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|\d+")  # values within a message


class RecordWarning(TracerNote):
    """Records were left out, or fields of them."""


@dataclass(frozen=True)
class Problem:
    """Reason why one record was not loaded.

    Attributes:
        file: name of its file.
        number: number of the record, from 1.
        line: the line it begins on, from 1; None: it comes from no file, or one without lines.
        case: its case id; None: not known.
        field: the wrong field; None: all of it.
        message: the reason.
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

    @property
    def kind(self) -> tuple[str, str | None, str]:
        """Key shared by problems that differ only in values."""
        return self.file, self.field, _VARIES.sub("", self.message.partition(";")[0])


def listed(problems: Sequence[Problem], most: int) -> str:
    """Lines on the first `most` kinds of problems: one problem of each in full, and the places of the others."""
    kinds: dict[tuple[str, str | None, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    lines = []
    for first, *others in list(kinds.values())[:most]:
        lines.append(f"  {first}")
        if others:
            places = ", ".join(str(other.number) for other in others[:PLACES])
            rest = ", ..." if len(others) > PLACES else ""
            named = "record" if len(others) == 1 else "records"
            lines.append(f"    and {len(others):,} more like it: {named} {places}{rest}")
    left = [len(some) for some in list(kinds.values())[most:]]
    return "\n".join([*lines, *([f"  and {sum(left):,} more of {len(left)} other kinds"] if left else [])])
