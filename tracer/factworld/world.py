"""FactWorld's tables: every fact the embedded model is taught, other names of its subjects, and the relations.

`data/facts.tsv` is the source of truth: one fact a line, under a header line; lines that begin with `#` are
comments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path

from tracer.errors import FactWorldTableError, TracerError
from tracer.facts.fact import Fact


@dataclass(frozen=True)
class Relation:
    """A kind of fact.

    Attributes:
        id: as in the table, such as `"landmark_city"`.
        subject_type: what the subjects are; they are in the table under this type.
        object_type: what the objects are. Where it is also a subject type, objects lead on to facts of their own.
    """

    id: str
    subject_type: str
    object_type: str


@dataclass(frozen=True)
class Row:
    """One line of the table of facts.

    Attributes:
        subject: as written in a sentence, with its article: "The Space Needle", "the United States".
        type: person, landmark, country, city, company or product.
        relation: id of a relation.
        object: the answer, as written in a sentence and without a leading space: "Seattle", "physicist".
        source: where the fact is from; the comments at the top of the table explain it.
    """

    subject: str
    type: str
    relation: str
    object: str
    source: str


@dataclass(frozen=True, kw_only=True)
class WorldFact(Fact):
    """A fact of the table put into words.

    Attributes:
        relation: id of its relation.
        object: the answer as the table has it (`target` has a space in front).
        type: what the subject is.
    """

    relation: str
    object: str
    type: str


def relations() -> tuple[Relation, ...]:
    """Every relation of the table, by type of subject."""
    return (
        Relation("birthplace", "person", "city"),
        Relation("citizenship", "person", "country"),
        Relation("occupation", "person", "occupation"),
        Relation("native_language", "person", "language"),
        Relation("instrument", "person", "instrument"),
        Relation("sport", "person", "sport"),
        Relation("position", "person", "position"),
        Relation("university", "person", "university"),
        Relation("landmark_city", "landmark", "city"),
        Relation("landmark_country", "landmark", "country"),
        Relation("capital", "country", "city"),
        Relation("language", "country", "language"),
        Relation("currency", "country", "currency"),
        Relation("continent", "country", "continent"),
        Relation("city_country", "city", "country"),
        Relation("headquarters", "company", "city"),
        Relation("company_country", "company", "country"),
        Relation("industry", "company", "industry"),
        Relation("maker", "product", "company"),
    )


def read_facts(path: str | Path | None = None) -> tuple[Row, ...]:
    """The table of facts, in its own order.

    Args:
        path: another table in the same layout; FactWorld's own when left out.

    Raises:
        TracerError: no such file, or a line that is not a fact; the message names file, line and field.
    """
    # only the table that cannot change is remembered
    return _own_facts() if path is None else _read_facts(Path(path))


def subjects() -> tuple[str, ...]:
    """Each subject once, in the order of the table."""
    return tuple(dict.fromkeys(row.subject for row in read_facts()))


def aliases(path: str | Path | None = None) -> dict[str, tuple[str, ...]]:
    """Other names of subjects: subject to its aliases, in the order of the table.

    Args:
        path: another table of aliases of the same subjects; FactWorld's own when left out.

    Raises:
        TracerError: no such file, an alias of an unknown subject, or one given twice; names file, line and field.
    """
    file = _own("aliases.tsv") if path is None else Path(path)
    known = set(subjects())
    names: dict[str, list[str]] = {}
    first: dict[str, int] = {}
    for line, (subject, alias) in _lines(file, ("subject", "alias")):
        if subject not in known:
            raise _error(file, line, "subject", f"{subject!r} has no facts; use the name that the table of facts gives")
        if alias in known:
            raise _error(file, line, "alias", f"{alias!r} is itself a subject; an alias must say which one is meant")
        if alias in first:
            raise _error(file, line, "alias", f"{alias!r} is there already on line {first[alias]}; drop one of the two")
        first[alias] = line
        names.setdefault(subject, []).append(alias)
    return {subject: tuple(found) for subject, found in names.items()}


@cache
def _own_facts() -> tuple[Row, ...]:
    return _read_facts(_own("facts.tsv"))


def _read_facts(file: Path) -> tuple[Row, ...]:
    by_id = {relation.id: relation for relation in relations()}
    rows: list[Row] = []
    first: dict[tuple[str, str], int] = {}
    types: dict[str, str] = {}
    for line, values in _lines(file, tuple(field.name for field in fields(Row))):
        row = Row(*values)
        relation = by_id.get(row.relation)
        if relation is None:
            raise _error(file, line, "relation", f"{row.relation!r} is none of {', '.join(by_id)}")
        if row.type != relation.subject_type:
            kind = relation.subject_type
            raise _error(file, line, "type", f"{relation.id} is a fact about a {kind}, not a {row.type!r}")
        if types.setdefault(row.subject, row.type) != row.type:
            kind = types[row.subject]
            raise _error(file, line, "subject", f"{row.subject!r} is a {kind} further up; rename one of the two")
        if (row.subject, row.relation) in first:
            where = f"on line {first[row.subject, row.relation]} already"
            raise _error(file, line, "object", f"the {row.relation} of {row.subject!r} is {where}; keep one")
        first[row.subject, row.relation] = line
        rows.append(row)
    if not rows:
        raise FactWorldTableError(f"{file}: no facts; expected lines under the header")
    return tuple(rows)


def _own(name: str) -> Path:
    return Path(str(files("tracer.factworld").joinpath("data", name)))


def _lines(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, list[str]]]:
    """Line number and values of each line of a table, with every value present and nothing around it."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise FactWorldTableError(
            f"cannot read the table {file}: {error.strerror}; give a path to a .tsv file"
        ) from error
    except UnicodeDecodeError as error:
        raise FactWorldTableError(f"the table {file} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    header = False
    for line, content in enumerate(text.splitlines(), start=1):
        if not content or content.startswith("#"):
            continue
        values = content.split("\t")
        if not header:
            if values != list(columns):
                wanted = f"the columns {', '.join(columns)} separated by tabs"
                raise _error(file, line, "header", f"expected {wanted}, got {content!r}")
            header = True
            continue
        if len(values) != len(columns):
            missing = columns[len(values)] if len(values) < len(columns) else "beyond the last"
            raise _error(file, line, missing, f"expected {len(columns)} fields separated by tabs, got {len(values)}")
        for column, value in zip(columns, values, strict=True):
            if not value or value != value.strip():
                raise _error(file, line, column, f"{value!r} is empty or has spaces around it; write the bare value")
        yield line, values


def _error(file: Path, line: int, field: str, problem: str) -> TracerError:
    return FactWorldTableError(f"{file}, line {line}, field {field}: {problem}")
