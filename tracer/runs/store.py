"""One SQLite file of a run: its jobs, their workers, the items done, and the rows that came out."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import JobError, OtherRun, RunFileError

from . import schema
from .claim import Claiming, Rows
from .job import Counts, Job, checked, plain
from .values import decoded, encoded, value
from .worker_id import Worker

if TYPE_CHECKING:
    import pandas as pd

LEASE = 60.0
LOSSES = 3
"""A job whose worker ended so often without a further item fails: it may well be the reason."""

NEXT = """
SELECT job FROM job_jobs WHERE state = 'open' AND job NOT IN (SELECT job FROM job_claims) AND NOT EXISTS (
    SELECT 1 FROM job_after JOIN job_jobs AS first ON first.job = needs
    WHERE job_after.job = job_jobs.job AND first.state <> 'done')
ORDER BY job LIMIT 1
"""
COUNTS = """
SELECT (SELECT count(*) FROM job_done), (SELECT count(*) FROM job_items),
    (SELECT count(*) FROM job_jobs WHERE state = 'failed'), (SELECT count(*) FROM job_claims),
    (SELECT count(*) FROM job_jobs WHERE state = 'open')
"""


class Store(Claiming):
    """A run's file, made by `create` or `open`; any number of processes of one machine may have it open.

    An item's rows, its bytes and the note that it is done are one transaction, so at whatever moment a process is
    killed, an item is there wholly or not at all. SQLite's write-ahead log (`-wal` and `-shm` beside the file while it
    is open) lets others read while workers write; it does not work across machines, see [`tracer.runs.run`][] and its
    `cluster`.

    A store belongs to the process that opened it; a fork of that process opens its own.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path, self._db = path, db
        self._lock, self._pid = threading.RLock(), os.getpid()
        with self._use() as db:
            meta = {key: json.loads(text) for key, text in db.execute("SELECT key, value FROM job_meta")}
        self.tables: dict[str, list[str]] = meta["tables"]
        self._lease = float(meta["lease"])

    @classmethod
    def create(
        cls,
        path: str | Path,
        jobs: Iterable[Job],
        settings: Mapping[str, Any],
        tables: Mapping[str, Sequence[str]],
        *,
        lease: float = LEASE,
    ) -> Store:
        """A new run in a file, or one that is there already and has the same jobs, settings and tables.

        Args:
            path: the file.
            jobs: the jobs.
            settings: of the work, in what json knows.
            tables: by name of a table, its columns.
            lease: seconds without a sign of life after which another worker may take over a job. A worker of this
                machine whose process has ended is not waited for.

        Raises:
            TracerError: another run's file, naming the first difference; anything else of that name; a file that cannot
                be written; jobs, settings or names that cannot be used.
        """
        path, jobs, tables = Path(path), checked(jobs), schema.named(tables)
        settings = plain(dict(settings), "the settings of a run")
        if not lease > 0:
            raise JobError(f"lease is {lease!r}; expected seconds, more than 0")
        if not path.exists():
            schema.create(path, jobs, settings, tables, lease)
        store = cls.open(path)
        with store._use() as db, schema.transaction(db, "DEFERRED"):
            other = schema.difference(db, jobs, settings, tables)
        if other:
            store.close()
            raise OtherRun(f"{path} holds another run: {other}; choose another file")
        return store

    @classmethod
    def open(cls, path: str | Path, *, check: bool = True) -> Store:
        """The run in a file, finished or not, also while others work on it.

        Args:
            path: the file.
            check: read through the file to see whether it is whole.

        Raises:
            TracerError: a file that is missing, damaged or not a run's.
        """
        db = schema.opened(Path(path), check)
        try:
            return cls(Path(path), db)
        except BaseException:
            db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._pid == os.getpid():
            self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # --- results ---------------------------------------------------------------------------------------------------
    def settings(self) -> dict[str, Any]:
        """The settings of the run."""
        with self._use() as db:
            rows = db.execute("SELECT key, value FROM settings ORDER BY rowid").fetchall()
        return {key: json.loads(text) for key, text in rows}

    def rows(self, table: str) -> list[list[Any]]:
        """The rows of a table so far, ordered by job, item and row: the same whatever the order of work."""
        columns = self._columns(table)
        names = ", ".join(map(schema.quoted, ["job_nan", *columns]))
        query = f"SELECT {names} FROM {schema.quoted(table)} ORDER BY job_job, job_item, job_row"
        with self._use() as db:
            return [decoded(row) for row in db.execute(query)]

    def frame(self, table: str) -> pd.DataFrame:
        """The rows of a table as [`rows`][tracer.runs.Store.rows] has them."""
        import pandas as pd

        return pd.DataFrame(self.rows(table), columns=pd.Index(self._columns(table)))

    def blob(self, key: str, name: str) -> bytes | None:
        """Bytes that a job has kept under a name, or None.

        Raises:
            TracerError: no such job.
        """
        with self._use() as db:
            query = (
                "SELECT job_jobs.job, value FROM job_jobs "
                "LEFT JOIN job_blobs ON job_blobs.job = job_jobs.job AND name = ? WHERE key = ?"
            )
            row = db.execute(query, (name, key)).fetchone()
        if row is None:
            raise JobError(f"there is no job {key!r} in {self.path}")
        return row[1]

    def done(self, key: str) -> frozenset[str]:
        """Items of a job that are committed."""
        query = (
            "SELECT name FROM job_done JOIN job_items USING (job, item) "
            "WHERE job = (SELECT job FROM job_jobs WHERE key = ?)"
        )
        with self._use() as db:
            return frozenset(name for (name,) in db.execute(query, (key,)))

    def progress(self) -> Counts:
        """Counts of items and jobs so far."""
        with self._use() as db:
            return Counts(*db.execute(COUNTS).fetchone())

    def errors(self) -> dict[str, str]:
        """Reasons of failed jobs, by key; the first line of each is the reason in short."""
        with self._use() as db:
            return dict(db.execute("SELECT key, error FROM job_jobs WHERE state = 'failed' ORDER BY job").fetchall())

    def retry_failed(self) -> int:
        """Let jobs that failed be done again, from the first item that is not there; returns how many."""
        with self._write() as db:
            return db.execute("UPDATE job_jobs SET state='open', error=NULL, lost=0 WHERE state='failed'").rowcount

    # --- for workers -----------------------------------------------------------------------------------------------
    def take(self, worker: str) -> tuple[Job, frozenset[str]] | None:
        """Take a job, as by `claim`."""
        with self._write() as db:
            self._sweep(db)
            row = db.execute(NEXT).fetchone()
            if row is None:
                return None
            db.execute("INSERT INTO job_claims VALUES (?, ?, ?)", (row[0], worker, time.time()))
            done = db.execute("SELECT name FROM job_done JOIN job_items USING (job, item) WHERE job = ?", row)
            return schema.job_of(db, row[0]), frozenset(name for (name,) in done)

    def commit(self, worker: str, key: str, item: str, rows: Rows, blobs: Mapping[str, bytes]) -> None:
        """Write down an item; see [`tracer.runs.Claim.commit`][]."""
        prepared = {table: list(encoded(given, self._columns(table), table)) for table, given in rows.items()}
        kept = {name: value(given, f"blob {name!r}") for name, given in blobs.items()}
        for name, given in kept.items():
            if not isinstance(given, bytes):
                raise JobError(f"blob {name!r} is {type(given).__name__}; expected bytes")
        with self._write() as db:
            job = schema.held(db, worker, key)
            query = (
                "SELECT item, EXISTS (SELECT 1 FROM job_done WHERE job_done.job = job_items.job "
                "AND job_done.item = job_items.item) FROM job_items WHERE job = ? AND name = ?"
            )
            place, done = db.execute(query, (job, item)).fetchone() or (None, False)
            if place is None:
                raise JobError(f"job {key!r} has no item {item!r}")
            if done:
                raise JobError(f"item {item!r} of job {key!r} was committed before; each is written once")
            db.execute("INSERT INTO job_done VALUES (?, ?)", (job, place))
            for table, given in prepared.items():
                marks = ", ".join("?" * (4 + len(self.tables[table])))
                numbered = ((job, place, number, *row) for number, row in enumerate(given))
                db.executemany(f"INSERT INTO {schema.quoted(table)} VALUES ({marks})", numbered)
            db.executemany("REPLACE INTO job_blobs VALUES (?, ?, ?)", ((job, name, b) for name, b in kept.items()))
            db.execute("UPDATE job_claims SET beat = ? WHERE job = ?", (time.time(), job))
            db.execute("UPDATE job_jobs SET lost = 0 WHERE job = ? AND lost", (job,))

    def finish(self, worker: str, key: str) -> None:
        """End a job as done; see [`tracer.runs.Claim.finish`][]."""
        with self._write() as db:
            job = schema.held(db, worker, key)
            query = "SELECT name FROM job_items WHERE job = ? AND item NOT IN (SELECT item FROM job_done WHERE job = ?)"
            if left := db.execute(query, (job, job)).fetchall():
                raise JobError(f"job {key!r} was ended without {len(left)} of its items, such as {left[0][0]!r}")
            db.execute("UPDATE job_jobs SET state = 'done' WHERE job = ?", (job,))
            db.execute("DELETE FROM job_claims WHERE job = ?", (job,))

    def fail(self, worker: str, key: str, error: str) -> None:
        """End a job as failed; see [`tracer.runs.Claim.fail`][]."""
        with self._write() as db:
            self._failed(db, schema.held(db, worker, key), error)

    def release(self, worker: str, lost: bool = False) -> None:
        """Give back the jobs of a worker; `lost` if it ended by itself, which is counted against the job."""
        with self._write() as db:
            self._free(
                db, [row[0] for row in db.execute("SELECT job FROM job_claims WHERE worker = ?", (worker,))], lost
            )

    def beat(self, worker: str) -> None:
        """Note that a worker lives."""
        with self._write() as db:
            db.execute("UPDATE job_claims SET beat = ? WHERE worker = ?", (time.time(), worker))

    def lease(self) -> float:
        """Seconds without a sign of life after which a claim is free."""
        return self._lease

    def sweep(self) -> None:
        """Free the jobs of workers that are dead."""
        with self._write() as db:
            self._sweep(db)

    def forgive(self) -> None:
        """Forget how often workers of jobs that are open have ended by themselves: a new run begins."""
        with self._write() as db:
            self._sweep(db)
            db.execute("UPDATE job_jobs SET lost = 0 WHERE lost")

    def _sweep(self, db: sqlite3.Connection) -> None:
        now, dead = time.time(), []
        for job, worker, beat in db.execute("SELECT job, worker, beat FROM job_claims").fetchall():
            known = Worker.parse(worker)
            if now - beat > self._lease or (known is not None and known.dead()):
                dead.append(job)
        self._free(db, dead, lost=True)

    def _free(self, db: sqlite3.Connection, jobs: Sequence[int], lost: bool) -> None:
        for job in jobs:
            db.execute("DELETE FROM job_claims WHERE job = ?", (job,))
            if not lost:
                continue
            query = "UPDATE job_jobs SET lost = lost + 1 WHERE job = ? RETURNING lost"
            if db.execute(query, (job,)).fetchall()[0][0] >= LOSSES:
                self._failed(db, job, f"its worker ended {LOSSES} times without a word (is the memory enough?)")

    def _failed(self, db: sqlite3.Connection, job: int, error: str) -> None:
        db.execute("UPDATE job_jobs SET state = 'failed', error = ? WHERE job = ?", (value(error, "the error"), job))
        db.execute("DELETE FROM job_claims WHERE job = ?", (job,))

    # --- the connection ----------------------------------------------------------------------------------------------
    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection]:
        if self._pid != os.getpid():
            raise RunFileError(
                f"{self.path} was opened by another process, of which this is a fork; open it here again"
            )
        with self._lock, schema.sqlite_errors(self.path):
            yield self._db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._use() as db, schema.transaction(db):
            yield db

    def _columns(self, table: str) -> list[str]:
        if table not in self.tables:
            raise JobError(f"there is no table {table!r} in {self.path}; it has {', '.join(self.tables)}")
        return self.tables[table]
