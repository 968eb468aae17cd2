"""The loop that every worker of a run goes through, wherever it is."""

from __future__ import annotations

import importlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tracer.errors import TracerError, WorkerError

from .claim import Backend, Claim
from .job import Lost, StorageError

Doing = Callable[[Claim], None]
POLL = 0.5
"""Most seconds between two looks whether a job has become free."""


def resolve(work: str) -> Callable[..., Any]:
    """The callable that "module:callable" names.

    Raises:
        TracerError: no such callable.
    """
    module, _, name = work.partition(":") if isinstance(work, str) else ("", "", "")
    if not module or not name.isidentifier():
        raise WorkerError(f"work is {work!r}; expected 'module:callable'")
    if module == "__main__":
        raise WorkerError(f"{work!r} cannot be imported by other processes; put it into a module of its own")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise WorkerError(f"work {work!r} cannot be imported ({error}); expected 'module:callable'") from error
    if not callable(found):
        raise WorkerError(f"work {work!r} is a {type(found).__name__}; expected a callable")
    return found


def made(function: Callable[..., Any], settings: dict[str, Any], given: Any) -> Any:
    """The function that does jobs, made by the work function.

    Raises:
        TracerError: it made something else.
    """
    doing = function(settings) if given is None else function(settings, given)
    if not callable(doing):
        raise WorkerError(f"the work function made a {type(doing).__name__}; expected a callable that takes a Claim")
    return doing


def loop(store: Backend, doing: Doing, worker: str, committed: Callable[[], None] | None = None) -> None:
    """Claim jobs and do them until all are done; every worker runs this loop, wherever it is.

    Waits for jobs that others have, since these may come back.

    Raises:
        StorageError: the store cannot be written.
    """
    pause = 0.01
    with _beating(store, worker):
        while True:
            claim: Claim | None = store.claim(worker)  # type: ignore[attr-defined]
            if claim is None:
                if not store.progress().claimed:
                    return
                time.sleep(pause)
                pause = min(2 * pause, POLL)
                continue
            pause = 0.01
            claim.after_commit = committed
            try:
                doing(claim)
                if not claim.ended:
                    claim.finish()
            except Lost:
                continue
            except StorageError:
                with suppress(TracerError):
                    store.release(worker)
                raise
            except Exception as error:
                with suppress(Lost):
                    claim.fail(described(error))
            except BaseException:  # Ctrl-C
                with suppress(TracerError):
                    store.release(worker)
                raise


def described(error: BaseException) -> str:
    """An error in short on the first line, and then its traceback."""
    short = " ".join(str(error).split())
    if not isinstance(error, TracerError) or not short:
        short = f"{type(error).__name__}: {short}"
    return f"{short}\n\n{''.join(traceback.format_exception(error))}"


@contextmanager
def _beating(store: Backend, worker: str) -> Iterator[None]:
    """Signs of life while the block runs, so that an item may take longer than the lease."""
    ended = threading.Event()

    def beat(every: float) -> None:
        while not ended.wait(every):
            with suppress(Exception):  # the worker itself meets the error
                store.beat(worker)

    thread = threading.Thread(target=beat, args=(store.lease() / 4,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
