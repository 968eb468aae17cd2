"""Set workers to the jobs of a run: this process, several of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tracer.checks import whole
from tracer.errors import WorkerError
from tracer.progress import bar

from .cluster import Actors
from .crew import supervise
from .job import Counts, Failed
from .local import Processes
from .store import Store
from .work import loop, made, resolve
from .worker_id import Worker


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
    """Do every job of the run in `path` that is not done yet.

    It may be called again after an interruption of any kind, and by several processes of one machine at once: a job is
    done by one worker at a time, an item that is committed is not done again. A worker that dies is replaced, and its
    job is done by another; a job whose worker dies three times without a further item fails. Ctrl-C ends all workers,
    and the run can be continued.

    Args:
        path: a file made by [`tracer.runs.Store.create`][].
        work: "module:callable", importable in a new process. `callable(settings)`, called once per worker, makes the
            function that does a job: it gets a [`tracer.runs.Claim`][], commits every item of `claim.job.items` that is
            not in `claim.done`, and returns. If it raises, the job fails and the next one is begun.
        workers: 1 works in this process; more are new processes, which share the processor's cores (OMP_NUM_THREADS).
        cluster: address of a Ray cluster ("local" starts one on this machine), on which the workers then are; the file
            stays on this machine. Needs `pip install "tracer-workbench[cluster]"`. Each worker takes one CPU and, where
            there are any, a part of the GPUs.
        progress: show a bar over items.
        given: passed to the callable behind the settings if it is not None: what json does not know, such as arrays. It
            is pickled for workers in other processes and never written into the run's file.
        each: called here with the store now and then (workers elsewhere) or after each item (in this process), and at
            the end.
        label: text of the bar; None for the file's name.

    Raises:
        Failed: all that could be done was done, but jobs failed; see [`tracer.runs.Store.errors`][],
            [`tracer.runs.Store.retry_failed`][].
        StorageError: the file cannot be written, such as on a full disk.
        TracerError: no such work function, one that cannot be made, or workers that end as soon as they begin.
    """
    workers = whole("workers", workers, 1, kind=WorkerError, expected="a whole number, at least 1")
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
                with _crew(store.path, work, workers, cluster, given) as crew:
                    supervise(store, crew, workers, tick)
            tick()
        return _reported(store)


def _crew(path: Path, work: str, workers: int, cluster: str | None, given: Any) -> Any:
    if cluster is None:
        return Processes(path, work, workers, given)
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
