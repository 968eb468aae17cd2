"""Workers elsewhere, and their supervision."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from tracer.errors import TracerError, WorkerError

from .job import StorageError
from .store import LOSSES, Store


class Ending(NamedTuple):
    """The end of a worker.

    Attributes:
        worker: its name; None where unknown.
        died: the cause of its death; "" if it did not die.
        error: an error that any other worker would meet too, or "".
        storage: whether this is an error of the run's file.
    """

    worker: str | None = None
    died: str = ""
    error: str = ""
    storage: bool = False


class Crew(Protocol):
    """Workers of one kind."""

    def start(self) -> None:
        """Start one more worker."""
        ...

    def size(self) -> int:
        """Number of workers."""
        ...

    def ended(self) -> list[Ending]:
        """Those that ended since the last call; waits a little for one."""
        ...


def supervise(store: Store, crew: Crew, workers: int, tick: Callable[[], None]) -> None:
    """Keep `workers` at work until nothing is left to do.

    Raises:
        TracerError: an error that no worker can get over, or workers that die and get nothing done.
    """
    deaths, before = 0, store.progress()
    for _ in range(min(workers, before.open)):
        crew.start()
    while crew.size():
        for ending in crew.ended():
            if ending.error:
                raise (StorageError if ending.storage else TracerError)(ending.error)
            if not ending.died:
                continue
            if ending.worker is None:
                store.sweep()
            else:
                store.release(ending.worker, lost=True)
            now = store.progress()
            deaths = 1 if (now.done, now.failed) != (before.done, before.failed) else deaths + 1
            before = now
            # a job fails before that if it is the reason, whoever does it
            if deaths > LOSSES * workers:
                raise WorkerError(f"{deaths} workers ended one after the other ({ending.died}); run it again to go on")
            if now.open:
                crew.start()
        tick()
