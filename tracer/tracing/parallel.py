"""Traces of many facts by several workers: a part of [`tracer.average_traces`][]."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.errors import TracerError, WorkerError
from tracer.runs.claim import Claim
from tracer.runs.job import Failed, Job
from tracer.runs.recipe import Recipe
from tracer.runs.start import run
from tracer.runs.store import Store

from .member import Case, traced
from .store import TraceStore

if TYPE_CHECKING:
    from tracer.model import Model

    from .trace import CausalTrace

CHUNK = 8
"""Most facts of one job; fewer where there are few, so that no worker waits long for the last."""


def trace_missing(
    folder: TraceStore,
    model: Model,
    cases: Sequence[Case],
    settings: dict[str, Any],
    trace: Callable[..., CausalTrace],
    workers: int,
    cluster: str | None,
) -> None:
    """Trace the facts that `folder` does not have yet, and put each there once it is finished.

    Only one process writes to the folder: workers hand in the file of a trace with the fact it is about, so that they
    may be on other machines.

    Raises:
        TracerError: a fact that cannot be traced (naming it; the others are done), and as [`tracer.runs.run`][].
    """
    cases = [case for case in cases if not any(path.exists() for path in folder.files(case.identity()))]
    if not cases:
        return
    given = {
        "model": Recipe.of(model, anywhere=cluster is not None),
        "cases": cases,
        "settings": settings,
        "trace": trace,
        "folder": folder.settings,
    }
    size = max(1, min(CHUNK, len(cases) // (4 * max(1, workers))))
    parts = [range(start, min(start + size, len(cases))) for start in range(0, len(cases), size)]
    jobs = [Job(f"facts {part[0]} on", items=tuple(map(str, part))) for part in parts]
    seen: set[str] = set()

    def collect(store: Store) -> None:
        for job in jobs:
            if len(new := store.done(job.key) - seen):
                for item in new:
                    for path in folder.files(cases[int(item)].identity()):
                        if (content := store.blob(job.key, path.name)) is not None:
                            folder.put(path, content)
                seen.update(new)

    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".run.") as scratch:
        path = Path(scratch) / "run"
        Store.create(path, jobs, {}, {}).close()
        try:
            run(
                path,
                f"{__name__}:work",
                workers=workers,
                cluster=cluster,
                given=given,
                each=collect,
                label="tracing facts",
            )
        except Failed as failed:
            with Store.open(path, check=False) as store:
                first = next(iter(store.errors().values()))
            raise WorkerError(first.partition("\n")[0]) from failed


def work(settings: dict[str, Any], given: dict[str, Any]) -> Callable[[Claim], None]:
    """The function that traces facts, and hands in each as the file that a folder of traces keeps."""
    model = given["model"].load()

    def do(claim: Claim) -> None:
        for item in claim.job.items:
            if item in claim.done:
                continue
            case = given["cases"][int(item)]
            try:
                found = traced(model, case, given["settings"], given["trace"])
            except TracerError as error:
                raise case.named(error) from error
            with tempfile.TemporaryDirectory(prefix="tracer-") as scratch:
                folder = TraceStore(Path(scratch), given["folder"])
                folder.keep(case.identity(), found)
                files = [path for path in folder.files(case.identity()) if path.exists()]
                claim.commit(item, blobs={path.name: path.read_bytes() for path in files})

    return do
