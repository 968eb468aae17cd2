"""Former names of metrics and columns, in runs and tables written before they were renamed; and tables added since.

They are given their present names when they are read. A run that goes on is renamed in its file first, so that all its
rows have one name, and is given the tables that it lacks.
"""

from __future__ import annotations

import json
import re
import sqlite3
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from tracer.runs.schema import declared

WORDS = {"said": "generated", "kept": "unchanged"}
COLUMN = {"said": "match"}  # of the table of answers, whose column "generated" is the text
_METRIC = re.compile(r"^(?P<of>.+ )(?P<open>\(?)(?P<word>said|kept)(?P<close>\)?)$")


def current(metric: str) -> str:
    """The present name of a metric.

    Args:
        metric: "rewrite said", "reliability (said)", "neighbour kept", or any other, which stays.
    """
    found = _METRIC.match(metric)
    return metric if found is None else f"{found['of']}{found['open']}{WORDS[found['word']]}{found['close']}"


def asked_for(name: str) -> str:
    """The present name of a metric, or of a way to answer, that a caller named.

    Args:
        name: present or former.

    Warns:
        DeprecationWarning: a former name.
    """
    now = WORDS.get(name) or current(name)
    if now != name:
        warnings.warn(f"{name!r} is called {now!r} now; use that name", DeprecationWarning, stacklevel=3)
    return now


def current_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of answers with the present names of its columns."""
    return {COLUMN.get(name, name): value for name, value in row.items()}


def rename(path: Path, added: Mapping[str, Sequence[str]]) -> None:
    """Give the file of a run the present names and tables, if it is a former one; all of it at once or nothing.

    Args:
        path: of the run; a file that is none is left as it is, for its reader to name.
        added: columns of the tables that former files lack.
    """
    if not path.is_file():
        return
    try:
        with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as db:
            columns = {row[1] for row in db.execute("PRAGMA table_info(answers)")}
            former = set(COLUMN) & columns
            (tables,) = db.execute("SELECT value FROM job_meta WHERE key = 'tables'").fetchone()
            named = json.loads(tables)
            lacking = {name: list(of) for name, of in added.items() if name not in named}
            if not columns or not (former or lacking):
                return
            db.execute("BEGIN IMMEDIATE")
            for old in former:
                db.execute(f'ALTER TABLE answers RENAME COLUMN "{old}" TO "{COLUMN[old]}"')
            for (name,) in db.execute("SELECT DISTINCT metric FROM metrics").fetchall() if former else ():
                db.execute("UPDATE metrics SET metric = ? WHERE metric = ?", (current(name), name))
            for table, of in lacking.items():
                db.execute(declared(table, of))
            named["answers"] = [COLUMN.get(name, name) for name in named["answers"]]
            named |= lacking
            db.execute("UPDATE job_meta SET value = ? WHERE key = 'tables'", (json.dumps(named),))
            db.execute("COMMIT")
    except (sqlite3.Error, TypeError):
        return  # no run, or one that cannot be written: opening it says so
