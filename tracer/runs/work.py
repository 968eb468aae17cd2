"""Doing the work of a run: the loop that every worker goes through, and :func:`run`, which sets workers to it."""

from __future__ import annotations

import importlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ..errors import TracerError
from .claim import Backend, Claim
from .job import Counts, Failed, Lost, StorageError
from .store import Store
from .worker_id import Worker

Doing = Callable[[Claim], None]
POLL = 0.5
"""Most seconds between two looks whether a job has become free."""


def run(
    path: str | Path,
    work: str,
    *,
    workers: int = 1,
    cluster: str | None = None,
    progress: bool = True,
    given: Any = None,
    each: Callable[[Store], None] | None = None,
    label: str | None = None,
) -> Counts:
    """Do every job of the run in ``path`` that is not done yet.

    It may be called again after an interruption of any kind, and by several processes of one machine at once: a job is
    done by one worker at a time, an item that is committed is not done again.

    Args:
        path: a file made by :meth:`Store.create`.
        work: "module:callable", importable in a new process. ``callable(settings)``, called once per worker, makes the
            function that does a job: it gets a :class:`Claim`, commits every item of ``claim.job.items`` that is not in
            ``claim.done``, and returns. If it raises, the job fails and the next one is begun.
        workers: 1 works in this process; more are new processes, which share the processor's cores (OMP_NUM_THREADS).
        cluster: address of a Ray cluster ("local" starts one on this machine), on which the workers then are; the file
            stays on this machine. Needs ``pip install 'tracer[cluster]'``. Each worker takes one CPU and, where there
            are any, a part of the GPUs.
        progress: show a bar over items.
        given: passed to the callable behind the settings if it is not None: what json does not know, such as arrays. It
            is pickled for workers in other processes and never written into the run's file.
        each: called here with the store now and then (workers elsewhere) or after each item (in this process), and at
            the end.
        label: what the bar says; None for the file's name.

    A worker that dies is replaced, and its job is done by another; a job whose worker dies three times without a
    further item fails. Ctrl-C ends all workers, and the run can be gone on with.

    Raises:
        Failed: all that could be done was done, but jobs failed; see :meth:`Store.errors`, :meth:`Store.retry_failed`.
        StorageError: the file cannot be written, such as on a full disk.
        TracerError: no such work function, one that cannot be made, or workers that end as soon as they begin.
    """
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise TracerError(f"workers is {workers!r}; expected a whole number, at least 1")
    from ..progress import bar

    function = resolve(work)
    with Store.open(path) as store:
        store.forgive()
        counts = store.progress()
        shown = bar(label or store.path.stem, counts.total) if progress else nullcontext()
        with shown as drawn:
            seen = 0

            def tick() -> None:
                nonlocal seen
                if drawn is not None:
                    done = store.progress().done
                    drawn.advance(drawn.task_ids[0], done - seen)
                    seen = done
                if each is not None:
                    each(store)

            tick()
            if counts.open and cluster is None and workers == 1:
                loop(store, made(function, store.settings(), given), str(Worker.here()), tick)
            elif counts.open:
                from .crew import supervise

                with _crew(store.path, work, workers, cluster, given) as crew:
                    supervise(store, crew, workers, tick)
            tick()
        return _reported(store)


def _crew(path: Path, work: str, workers: int, cluster: str | None, given: Any) -> Any:
    if cluster is None:
        from .local import Processes

        return Processes(path, work, workers, given)
    from .cluster import Actors

    return Actors(path, work, workers, cluster, given)


def _reported(store: Store) -> Counts:
    counts, errors = store.progress(), store.errors()
    if not errors:
        return counts
    short = [f"{key!r}: {text.partition(chr(10))[0]}" for key, text in errors.items()]
    some = "; ".join(short[:3] + ["..."] * (len(short) > 3))
    waiting = f", and {counts.open} that come after them were not begun" if counts.open else ""
    raise Failed(
        f"{counts.failed} of the jobs in {store.path} failed{waiting} ({some}). The others are "
        "done. Store.open(path).errors() tells more; after Store.open(path).retry_failed() run it again"
    )


def resolve(work: str) -> Callable[..., Any]:
    """The callable that "module:callable" names. Raises TracerError if there is none."""
    module, _, name = work.partition(":") if isinstance(work, str) else ("", "", "")
    if not module or not name.isidentifier():
        raise TracerError(f"work is {work!r}; expected 'module:callable'")
    if module == "__main__":
        raise TracerError(f"{work!r} cannot be imported by other processes; put it into a module of its own")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise TracerError(f"work {work!r} cannot be imported ({error}); expected 'module:callable'") from error
    if not callable(found):
        raise TracerError(f"work {work!r} is a {type(found).__name__}; expected a callable")
    return found


def made(function: Callable[..., Any], settings: dict[str, Any], given: Any) -> Any:
    """What does jobs."""
    doing = function(settings) if given is None else function(settings, given)
    if not callable(doing):
        raise TracerError(f"the work function made a {type(doing).__name__}; expected a callable that takes a Claim")
    return doing


def loop(store: Backend, doing: Doing, worker: str, committed: Callable[[], None] | None = None) -> None:
    """Claim jobs and do them until none is left; what every worker does, wherever it is.

    Waits for jobs that others have, since these may come back. Raises StorageError if the store cannot be written.
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
    """An error in short on the first line, and where it came from."""
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
            with suppress(Exception):  # the worker itself meets what is wrong
                store.beat(worker)

    thread = threading.Thread(target=beat, args=(store.lease() / 4,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
