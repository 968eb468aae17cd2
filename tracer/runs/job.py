"""Jobs of items, which make up a run, and their errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from tracer.errors import JobError, RunFileError, WorkerError


class StorageError(RunFileError):
    """The run's file cannot be read or written: a full disk, a lock that is never given back, a damaged file."""


class Lost(JobError):
    """The job was taken over by another worker, so nothing more is written for this one."""


class Failed(WorkerError):
    """Everything that could be done was done, but some jobs failed."""


@dataclass(frozen=True)
class Job:
    """A piece of work that one worker does, item by item.

    Attributes:
        key: its name, unlike any other job's.
        payload: what json knows; for the work function.
        items: names of its items, in the order in which tables show them.
        after: keys of the jobs that must be done first.

    Raises:
        TracerError: a payload that json does not know, or an item named twice.
    """

    key: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    items: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:
            raise JobError(f"the key of a job is {self.key!r}; expected text")
        object.__setattr__(self, "payload", plain(self.payload, f"the payload of job {self.key!r}"))
        for name in ("items", "after"):
            given = getattr(self, name)
            entries = (given,) if isinstance(given, str) else tuple(given)
            if isinstance(given, str) or not all(isinstance(entry, str) for entry in entries):
                raise JobError(f"{name} of job {self.key!r} is {given!r}; expected several texts")
            object.__setattr__(self, name, entries)
        if twice := _twice(self.items):
            raise JobError(f"job {self.key!r} has the item {twice!r} twice; give each its own name")


@dataclass(frozen=True)
class Counts:
    """Progress of a run.

    Attributes:
        done: items that are done.
        total: all items.
        failed: jobs that failed.
        claimed: jobs that a worker has.
        open: jobs that are neither done nor failed.
    """

    done: int
    total: int
    failed: int
    claimed: int
    open: int


def checked(jobs: Iterable[Job]) -> tuple[Job, ...]:
    """The jobs of one run.

    Raises:
        TracerError: keys that are not unique, or dependencies that cannot be met.
    """
    jobs = tuple(jobs)
    for job in jobs:
        if not isinstance(job, Job):
            raise JobError(f"{job!r} was given as a job; expected a Job")
    if not jobs:
        raise JobError("a run needs at least one job; give one or more")
    if twice := _twice([job.key for job in jobs]):
        raise JobError(f"two jobs have the key {twice!r}; give each its own")
    keys = {job.key for job in jobs}
    for job in jobs:
        if missing := [key for key in job.after if key not in keys]:
            raise JobError(
                f"job {job.key!r} comes after {missing[0]!r}, which is no job of the run; "
                "name one that is, or leave it out of after"
            )
    try:
        TopologicalSorter({job.key: job.after for job in jobs}).prepare()
    except CycleError as error:
        raise JobError(f"jobs wait for each other: {' -> '.join(error.args[1])}") from error
    return jobs


def plain(value: Any, what: str) -> Any:
    """The value as it comes back from json.

    Raises:
        TracerError: json does not know it; `what` names it in the message.
    """
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise JobError(f"{what} cannot be written as json ({error}); expected plain values") from error


def _twice(names: Sequence[str]) -> str | None:
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)
