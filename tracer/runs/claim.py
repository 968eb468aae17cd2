"""A job in a worker's hands, and the interface of a store of jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .job import Counts, Job

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
"""By table, rows as mappings from column to value: text, int, float, bytes or None. A column left out is None."""


class Backend(Protocol):
    """Interface of a store, here or (by messages) elsewhere, for workers; each call is all or nothing."""

    def take(self, worker: str) -> tuple[Job, frozenset[str]] | None:
        """A job for this worker with its items done so far; None while there is no free job."""
        ...

    def commit(self, worker: str, key: str, item: str, rows: Rows, blobs: Mapping[str, bytes]) -> None:
        """Write down an item; see [`tracer.runs.Claim.commit`][]."""
        ...

    def finish(self, worker: str, key: str) -> None:
        """End a job as done; see [`tracer.runs.Claim.finish`][]."""
        ...

    def fail(self, worker: str, key: str, error: str) -> None:
        """End a job as failed; see [`tracer.runs.Claim.fail`][]."""
        ...

    def release(self, worker: str, lost: bool = False) -> None:
        """Give back all jobs of the worker; `lost` if it ended by itself."""
        ...

    def beat(self, worker: str) -> None:
        """Note that the worker lives."""
        ...

    def blob(self, key: str, name: str) -> bytes | None:
        """Bytes a job has kept under a name."""
        ...

    def settings(self) -> dict[str, Any]:
        """The settings of the run."""
        ...

    def lease(self) -> float:
        """Seconds without a sign of life after which a claim is free."""
        ...

    def progress(self) -> Counts:
        """Counts of items and jobs so far."""
        ...


class Claim:
    """One job, held by one worker until it is finished, has failed, or is lost.

    Attributes:
        job: the job.
        done: items that are committed, by this worker or by one before it.
        ended: whether the job is finished or has failed.
    """

    def __init__(self, store: Backend, worker: str, job: Job, done: frozenset[str]) -> None:
        self.job, self.done, self.ended = job, done, False
        self.after_commit: Callable[[], None] | None = None
        self._store, self._worker = store, worker

    def commit(self, item: str, rows: Rows | None = None, blobs: Mapping[str, bytes] | None = None) -> None:
        """Write down an item: its rows, and bytes by name (which replace what the job kept under that name before).

        All of it is kept or, at a crash, nothing.

        Raises:
            Lost: another worker has taken the job over.
            StorageError: the disk is full or the file cannot be written; nothing is changed.
            TracerError: no such item, table or column, an item committed before, a value that cannot be kept.
        """
        self._store.commit(self._worker, self.job.key, item, rows or {}, blobs or {})
        self.done |= {item}
        if self.after_commit is not None:
            self.after_commit()

    def blob(self, name: str) -> bytes | None:
        """Bytes this job has kept, or None."""
        return self._store.blob(self.job.key, name)

    def blob_of(self, key: str, name: str) -> bytes | None:
        """Bytes another job has kept, or None.

        Raises:
            TracerError: no such job.
        """
        return self._store.blob(key, name)

    def finish(self) -> None:
        """End the job as done.

        Raises:
            TracerError: items are left, and as [`commit`][tracer.runs.Claim.commit].
        """
        self._store.finish(self._worker, self.job.key)
        self.ended = True

    def fail(self, error: str) -> None:
        """End the job as failed; `error` is the reason, its first line in short. Items that are committed stay."""
        self._store.fail(self._worker, self.job.key, error)
        self.ended = True


class Claiming:
    """Mixin that adds `claim` to a store."""

    def claim(self, worker: str) -> Claim | None:
        """The next free job that waits for no other; None while there is none.

        Args:
            worker: names the claimer, see `tracer.runs.worker_id.Worker`; any other text works too, and is held for
                dead only when its lease has ended.
        """
        taken = self.take(worker)  # type: ignore[attr-defined]
        return None if taken is None else Claim(self, worker, *taken)  # type: ignore[arg-type]
