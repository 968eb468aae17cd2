"""Facts from a file: a JSON list, or JSON lines, of records with prompt, subject and target (or attribute)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import TracerError
from ..tokens import Fact

EXPECTED = 'expected records such as {"prompt": "Paris is the capital of", "subject": "Paris", "target": "France"}'


class Record(BaseModel):
    """One fact of a file. Other fields are ignored.

    Attributes:
        prompt: text to be continued, with the subject in it or ``{}`` in its place.
        subject: the part that is corrupted.
        target: the answer; without it ``attribute``, and without both what the model says.
        attribute: the answer under the name it has in the ROME authors' list of known facts.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    prompt: str
    subject: str
    target: str | None = None
    attribute: str | None = None


def read(path: Path) -> list[tuple[str, Fact]]:
    """Every record as a fact, with what it is called in errors: the file and the record's number, from 1.

    Raises TracerError for a file that cannot be read, and for a record that is no fact, naming its field.
    """
    facts = []
    for number, content in enumerate(_records(path), 1):
        where = f"{path}, record {number}"
        try:
            record = Record.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = f", field {first['loc'][0]}" if first["loc"] else ""
            what = "is missing" if first["type"] == "missing" else first["msg"]
            raise TracerError(f"{where}{field}: {what}; {EXPECTED}") from error
        facts.append((where, _fact(where, record)))
    if not facts:
        raise TracerError(f"{path} holds no facts; {EXPECTED}")
    return facts


def _fact(where: str, record: Record) -> Fact:
    name = "target" if record.target is not None else "attribute"
    answer = getattr(record, name)
    for field, text in (("prompt", record.prompt), ("subject", record.subject), (name, answer)):
        if text is not None and not text.strip():
            raise TracerError(f"{where}, field {field}: it is empty; write it out, or leave the record out")
    try:
        return Fact(record.prompt, record.subject, answer)
    except TracerError as error:
        raise TracerError(f"{where}, field prompt: {error}") from error


def _records(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TracerError(f"cannot read the facts in {path} ({reason}); expected a file of JSON") from error
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise TracerError(f"{path} is no JSON ({error}); {EXPECTED} in a list, or one a line") from error
    records = []
    for line in filter(None, map(str.strip, text.split("\n"))):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            where = f"{path}, record {len(records) + 1}"
            raise TracerError(f"{where} is no JSON ({error}); {EXPECTED} in a list, or one a line") from error
    return records
