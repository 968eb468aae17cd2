"""Second moments by several workers: each reads a part of the text, and the sums are joined in a fixed order."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tracer.errors import TracerError, WorkerError
from tracer.model import Model
from tracer.runs import Claim, Failed, Job, Store, run
from tracer.runs.recipe import Recipe

from . import triangles as packed
from .accumulate import Sums
from .keys import GROUP, check_finite, empty_sums, marks_of, reached, read_groups
from .text import Windows

PARTS = 16
"""Parts a text is cut into, whatever the number of workers, so that the sums do not depend on it.

Each hands in the sums of all layers, so more parts would take more room. Being a power of two, it lets parts end where
doublings are watched.
"""
ITEM = "sums"


def parts(corpus: Windows, size: int, marks: Sequence[int]) -> list[list[tuple[int, int]]]:
    """Groups of windows as of `Windows.groups`, in up to `PARTS` parts of about as many tokens."""
    ends = [corpus.tokens * part // PARTS for part in range(1, PARTS + 1)]
    stops = {int(np.searchsorted(corpus.ends, end)) + 1 for end in ends if end}
    found: list[list[tuple[int, int]]] = [[]]
    for first, stop in corpus.groups(size, [*marks, *(end for end in ends if end)]):
        found[-1].append((first, stop))
        if stop in stops:
            found.append([])
    return [part for part in found if part]


def shared_sums(
    model: Model,
    corpus: Windows,
    layers: Sequence[int],
    dtype: torch.dtype,
    batch_tokens: int,
    keep: Path | None,
    workers: int,
    cluster: str | None,
) -> Sums:
    """Second moments as of `editing.covariance.estimate.sums_of`, summed in parts by several workers.

    They differ from those in the last digits, since parts are summed by themselves first.

    Args:
        model: loaded by its name in each worker.
        corpus: the windows to read.
        layers: of the moments.
        dtype: of the sums.
        batch_tokens: tokens per forward.
        keep: path of the sums; the file of the run lies beside it, so that an interrupted run can be resumed, and is
            removed at the end.
        workers: number of processes on this machine.
        cluster: a Ray cluster instead.

    Raises:
        TracerError: keys that are not finite, and as [`tracer.runs.run`][].
    """
    marks = marks_of(corpus)
    cut = parts(corpus, GROUP * batch_tokens, marks)
    jobs = [Job(f"part {number}", {"part": number}, (ITEM,)) for number in range(len(cut))]
    given = {
        "model": Recipe.of(model, anywhere=cluster is not None),
        "ids": np.array(corpus.ids),
        "ends": corpus.ends,
        "layers": list(layers),
        "dtype": dtype,
        "batch_tokens": batch_tokens,
        "marks": marks,
        "cut": cut,
    }
    settings = {"corpus": corpus.hash, "layers": list(layers), "dtype": str(dtype), "batch_tokens": batch_tokens}
    settings["fingerprint"] = model.fingerprint()
    with ExitStack() as stack:
        if keep is None:
            keep = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tracer-covariance-"))) / "run"
        keep = keep.with_suffix(".run")
        try:
            Store.create(keep, jobs, settings, {}).close()
        except TracerError as error:
            warnings.warn(f"{error}; the covariance is estimated from the beginning", stacklevel=4)
            _remove(keep)
            Store.create(keep, jobs, settings, {}).close()
        work, label = f"{__name__}:work", "covariance"
        try:
            run(keep, work, workers=workers, cluster=cluster, given=given, label=label)
        except Failed as failed:
            with Store.open(keep, check=False) as store:
                first = next(iter(store.errors().values()))
                store.retry_failed()  # when this is called again
            raise WorkerError(first.partition("\n")[0]) from failed
        with Store.open(keep, check=False) as store:
            sums = _together(store, jobs, given)
        _remove(keep)
    return sums


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def work(settings: dict[str, Any], given: dict[str, Any]) -> Callable[[Claim], None]:
    """Sum up parts of the text, and hand in the upper triangles."""
    model = given["model"].load()
    corpus = Windows(given["ids"], given["ends"], "", settings["corpus"])

    def do(claim: Claim) -> None:
        number = int(claim.job.payload["part"])
        if ITEM in claim.done:
            return
        sums = empty_sums(model, given["layers"], given["dtype"])
        # doublings inside the first part; the others begin anew
        stops = set() if number else reached(corpus.ends, given["marks"])
        for _ in read_groups(model, corpus, given["cut"][number], sums, given["batch_tokens"], stops):
            pass
        check_finite(model, sums)
        blobs = {f"layer {layer}": bits(packed.pack(total.cpu())) for layer, total in sums.totals.items()}
        claim.commit(ITEM, blobs=blobs | {"doublings": json.dumps(sums.doublings).encode()})

    return do


def bits(tensor: torch.Tensor) -> bytes:
    """The numbers of a tensor on the CPU."""
    numbers: Any = tensor.numpy()
    return numbers.tobytes()


def _together(store: Store, jobs: Sequence[Job], given: dict[str, Any]) -> Sums:
    """The sum of the parts, added one after the other, with the change measured at every doubling."""
    sums, stops = Sums({}), reached(given["ends"], given["marks"])
    for number, (job, part) in enumerate(zip(jobs, given["cut"], strict=True)):
        for layer in given["layers"]:
            content = store.blob(job.key, f"layer {layer}") or b""
            total = packed.unpack(torch.frombuffer(bytearray(content), dtype=given["dtype"]))
            sums.totals[layer] = sums.totals[layer] + total if number else total
        last = part[-1][1]
        sums.tokens = int(given["ends"][last - 1])
        if number == 0:  # where there are doublings in the first part, its end is one
            found = json.loads(store.blob(job.key, "doublings") or b"{}")
            sums.doublings = {int(layer): [(n, change) for n, change in rows] for layer, rows in found.items()}
        if last in stops and number == 0:
            sums.halves, sums.at_half = dict(sums.totals), sums.tokens
        elif last in stops:
            sums.mark()
    return sums
