"""Facts from a file (JSON, JSON lines, CSV, ...) of records with prompt, subject and target (or attribute)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from tracer.errors import CommandFileError, TracerError
from tracer.facts.fact import Fact
from tracer.files import Row, read_rows, unfolded

EXPECTED = 'expected records such as {"prompt": "Paris is the capital of", "subject": "Paris", "target": "France"}'


class Record(BaseModel):
    """One fact of a file. Other fields are ignored.

    Attributes:
        prompt: text to be continued, with the subject in it or `{}` in its place.
        subject: the part that is corrupted.
        target: the answer; without it `attribute`, and without both the model's own answer.
        attribute: the answer under the name it has in the ROME authors' list of known facts.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str
    subject: str
    target: str | None = None
    attribute: str | None = None


def read(path: Path) -> list[tuple[str, Fact]]:
    """Every record as a fact, with its name in errors: the file and the record's number, from 1.

    Raises:
        TracerError: a file that cannot be read, or a record that does not make a fact, naming its field.
    """
    facts = []
    for row in _rows(path):
        where = f"{path}, record {row.number}"
        if row.error is not None:
            raise CommandFileError(f"{where}: {row.error}; {EXPECTED}")
        try:
            record = Record.model_validate(row.value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = f", field {first['loc'][0]}" if first["loc"] else ""
            what = "is missing" if first["type"] == "missing" else first["msg"]
            raise CommandFileError(f"{where}{field}: {what}; {EXPECTED}") from error
        facts.append((where, _fact(where, record)))
    if not facts:
        raise CommandFileError(f"{path} holds no facts; {EXPECTED}")
    return facts


def _fact(where: str, record: Record) -> Fact:
    name = "target" if record.target is not None else "attribute"
    answer = getattr(record, name)
    for field, text in (("prompt", record.prompt), ("subject", record.subject), (name, answer)):
        if text is not None and not text.strip():
            raise CommandFileError(f"{where}, field {field}: it is empty; write it out, or leave the record out")
    try:
        return Fact(record.prompt, record.subject, answer)
    except TracerError as error:
        raise CommandFileError(f"{where}, field prompt: {error}") from error


def _rows(path: Path) -> list[Row]:
    return unfolded(list(read_rows(path)), _is_fact)


def _is_fact(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("prompt"), str) or isinstance(value.get("subject"), str)
