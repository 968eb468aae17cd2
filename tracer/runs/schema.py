"""The file of a run: its tables, its making, and its checks."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tracer.errors import JobError, RunFileError

from .job import Job, Lost, StorageError

APPLICATION = 0x74726163
"""Marks the file of a run in the header of an SQLite file."""
VERSION = 1
WAIT = 30.0
"""Seconds to wait for another process's transaction."""

# What work writes lies beside these, in tables of its own whose first columns are job_job, job_item, job_row and
# job_nan: the place of a row, which orders the table whoever wrote first, and which of its columns hold not a number
# (SQLite knows no NaN and writes NULL instead).
TABLES = """
CREATE TABLE settings(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE job_meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE job_jobs(
    job INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, payload TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'failed')),
    error TEXT, lost INTEGER NOT NULL DEFAULT 0);
CREATE TABLE job_after(
    job INTEGER REFERENCES job_jobs, needs INTEGER REFERENCES job_jobs, PRIMARY KEY (job, needs)) WITHOUT ROWID;
CREATE TABLE job_items(
    job INTEGER REFERENCES job_jobs, item INTEGER, name TEXT NOT NULL,
    PRIMARY KEY (job, item), UNIQUE (job, name)) WITHOUT ROWID;
CREATE TABLE job_done(
    job INTEGER, item INTEGER, PRIMARY KEY (job, item),
    FOREIGN KEY (job, item) REFERENCES job_items(job, item)) WITHOUT ROWID;
CREATE TABLE job_claims(
    job INTEGER PRIMARY KEY REFERENCES job_jobs, worker TEXT NOT NULL, beat REAL NOT NULL);
CREATE TABLE job_blobs(
    job INTEGER REFERENCES job_jobs, name TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY (job, name));
CREATE INDEX job_open ON job_jobs(job) WHERE state = 'open';
"""


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into those of a run.

    Raises:
        StorageError: every error of SQLite.
    """
    try:
        yield
    except sqlite3.Error as error:
        said = str(error)
        if "full" in said or "I/O" in said:
            what = f"{path} cannot be written ({said}); make room on the disk and run again, nothing committed is lost"
        elif "lock" in said or "busy" in said:
            what = (
                f"{path} is locked ({said}); another program holds it for more than {WAIT:.0f} s, or it lies on a "
                "network file system, where SQLite's locks do not work: put it on a disk of this machine"
            )
        elif "unable to open" in said or "readonly" in said:
            what = f"{path} cannot be opened to write ({said}); choose a file in a writable folder"
        elif "closed" in said:
            what = f"{path} was closed; open it again with Store.open"
        elif isinstance(error, sqlite3.DatabaseError) and ("malformed" in said or "not a database" in said):
            what = f"{path} is damaged ({said}); restore it from a copy, or remove it to begin again"
        else:
            what = f"{path}: {said}"
        raise StorageError(what) from error


def connect(path: Path) -> sqlite3.Connection:
    """A connection without implicit transactions, which the threads of one process may share one at a time."""
    db = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA foreign_keys=ON")
    return db


@contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """Make the block all or nothing. IMMEDIATE takes the write lock at once, so that what is read inside stays true."""
    try:
        db.execute(f"BEGIN {kind}")
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # some errors have already rolled it back
            db.execute("ROLLBACK")
        raise


def create(path: Path, jobs: Sequence[Job], settings: Mapping[str, Any], tables: dict[str, list[str]], lease: float):
    """Write the file of a new run; one that another process has made meanwhile is left alone.

    It is made under another name, so that a file under its own name is always whole.
    """
    log = Path(f"{path}-wal")
    if log.exists() and not path.exists():  # SQLite would add it to the new file
        raise RunFileError(f"{log} is left over from a file that was removed; remove it too")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with sqlite_errors(path), closing(connect(temporary)) as db:
            with transaction(db):
                _fill(db, jobs, settings, tables, lease)
            if db.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise StorageError(f"{path} is on a file system without shared memory; choose a disk of this machine")
        try:
            os.link(temporary, path)  # unlike a rename, leaves a file alone that is there
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write {path} ({error.strerror or error}); choose a writable folder") from error
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{temporary}{suffix}").unlink(missing_ok=True)


def _fill(db: sqlite3.Connection, jobs: Sequence[Job], settings: Mapping[str, Any], tables: Any, lease: float) -> None:
    db.execute(f"PRAGMA application_id={APPLICATION}")
    db.execute(f"PRAGMA user_version={VERSION}")
    for statement in TABLES.split(";"):
        db.execute(statement)
    for table, columns in tables.items():
        db.execute(declared(table, columns))
    db.executemany("INSERT INTO settings VALUES (?, ?)", ((key, json.dumps(value)) for key, value in settings.items()))
    meta = {"tables": tables, "lease": lease}
    db.executemany("INSERT INTO job_meta VALUES (?, ?)", ((key, json.dumps(value)) for key, value in meta.items()))
    place = {job.key: number for number, job in enumerate(jobs)}
    for number, job in enumerate(jobs):
        row = (number, job.key, json.dumps(job.payload))
        db.execute("INSERT INTO job_jobs(job, key, payload) VALUES (?, ?, ?)", row)
        db.executemany(
            "INSERT INTO job_items VALUES (?, ?, ?)", ((number, i, name) for i, name in enumerate(job.items))
        )
    for number, job in enumerate(jobs):
        needs = sorted({place[key] for key in job.after})
        db.executemany("INSERT INTO job_after VALUES (?, ?)", ((number, other) for other in needs))


def declared(table: str, columns: Sequence[str]) -> str:
    """SQL that makes a table of what work writes.

    Args:
        table: its name.
        columns: its own.
    """
    own = "".join(f"{quoted(column)}, " for column in columns)  # without a type they keep values as they are
    return (
        f"CREATE TABLE {quoted(table)}(job_job INTEGER, job_item INTEGER, job_row INTEGER, job_nan TEXT, {own}"
        "PRIMARY KEY (job_job, job_item, job_row), "
        "FOREIGN KEY (job_job, job_item) REFERENCES job_done(job, item)) WITHOUT ROWID"
    )


def opened(path: Path, check: bool) -> sqlite3.Connection:
    """A connection to the file of a run.

    Args:
        path: the file.
        check: read all of it to see whether it is whole.

    Raises:
        TracerError: a file that is missing, damaged, or something else.
    """
    if not path.exists():
        raise RunFileError(f"there is no file {path}; expected one that Store.create has made")
    try:
        with path.open("rb") as file:
            head = file.read(100)
    except OSError as error:
        raise RunFileError(f"{path} cannot be read ({error.strerror or error}); expected the file of a run") from error
    if head[:16] != b"SQLite format 3\0" or head[68:72] != APPLICATION.to_bytes(4, "big"):
        raise RunFileError(f"{path} is not the file of a run; expected one that Store.create has made")
    if (version := int.from_bytes(head[60:64], "big")) != VERSION:
        raise RunFileError(
            f"{path} is the file of a run in version {version}; expected version {VERSION}. Go on with the release "
            "that made it, or begin in another file"
        )
    with sqlite_errors(path):
        db = connect(path)
        try:
            # A commit is in the file once it is made, whatever becomes of the process. Only when the machine itself
            # goes down may the last ones be missing, which are then done again; FULL would wait for the disk each time.
            db.execute("PRAGMA synchronous=NORMAL")
            found = db.execute("PRAGMA quick_check(1)").fetchone()[0] if check else "ok"
            if found != "ok":
                reason = " ".join(found.split())
                raise StorageError(f"{path} is damaged ({reason}); restore it from a copy, or remove it to begin again")
        except BaseException:
            db.close()
            raise
    return db


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def named(tables: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Tables with their columns, checked.

    Raises:
        TracerError: names that cannot be used.
    """
    for kind, names in [
        ("table", list(tables)),
        *((f"column of {table}", list(cols)) for table, cols in tables.items()),
    ]:
        for name in names:
            if not isinstance(name, str) or not name or "\0" in name:
                raise JobError(f"{name!r} cannot be the name of a {kind}; expected text")
            if name.lower().startswith(("job_", "sqlite_")) or (kind == "table" and name.lower() == "settings"):
                raise JobError(f"the name {name!r} is kept for the run itself; give the {kind} another")
        if len({name.lower() for name in names}) < len(names):
            raise JobError(f"two names of a {kind} are the same but for case: {', '.join(names)}")
    return {table: list(columns) for table, columns in tables.items()}


def difference(db: sqlite3.Connection, jobs: Sequence[Job], settings: Mapping[str, Any], tables: Any) -> str | None:
    """The first difference of a file from these jobs, settings and tables, in words; None without one."""
    there: Any = {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM settings")}
    for name in {**settings, **there}:
        if name not in there or name not in settings or there[name] != settings[name]:
            return _differs(f"setting {name!r}", there.get(name, "not set"), settings.get(name, "not set"))
    (kept,) = db.execute("SELECT value FROM job_meta WHERE key = 'tables'").fetchone()
    if (kept := json.loads(kept)) != tables:
        return _differs("tables", kept, tables)
    keys = [key for (key,) in db.execute("SELECT key FROM job_jobs ORDER BY job")]
    for number, job in enumerate(jobs[: len(keys)]):
        if keys[number] != job.key:
            return _differs(f"job {number}", keys[number], job.key)
        found = job_of(db, number)
        for name in ("payload", "items"):
            if (one := getattr(found, name)) != (other := getattr(job, name)):
                return _differs(f"{name} of job {job.key!r}", one, other)
        if set(found.after) != set(job.after):
            return _differs(f"dependencies of job {job.key!r}", found.after, job.after)
    return None if len(keys) == len(jobs) else _differs("number of jobs", len(keys), len(jobs))


def _differs(what: str, there: Any, here: Any) -> str:
    def short(value: Any) -> str:
        text = repr(value)
        return text if len(text) <= 200 else f"{text[:200]}..."

    return f"its {what} is {short(there)}, here {short(here)}"


def job_of(db: sqlite3.Connection, number: int) -> Job:
    """The job at a place."""
    key, payload = db.execute("SELECT key, payload FROM job_jobs WHERE job = ?", (number,)).fetchone()
    items = db.execute("SELECT name FROM job_items WHERE job = ? ORDER BY item", (number,))
    after = db.execute(
        "SELECT key FROM job_after JOIN job_jobs ON job_jobs.job = needs WHERE job_after.job = ? ORDER BY needs",
        (number,),
    )
    return Job(key, json.loads(payload), tuple(name for (name,) in items), tuple(name for (name,) in after))


def held(db: sqlite3.Connection, worker: str, key: str) -> int:
    """The place of a job that the worker has.

    Raises:
        Lost: it does not have it.
    """
    row = db.execute(
        "SELECT job_jobs.job, worker FROM job_jobs LEFT JOIN job_claims USING (job) WHERE key = ?", (key,)
    ).fetchone()
    if row is None:
        raise JobError(f"there is no job {key!r} in this run")
    if row[1] != worker:
        raise Lost(f"job {key!r} is no longer this worker's: its claim ran out, or was given back")
    return row[0]
