"""Workers on a Ray cluster. The run's file stays with the caller; workers reach it by messages to one actor."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tracer.errors import ClusterError, TracerError, WorkerError
from tracer.extras import install

from .claim import Claiming, Rows
from .crew import Ending
from .job import Counts, Job, StorageError
from .store import Store
from .work import described, loop, made, resolve
from .worker_id import Worker

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_DEDUP_LOGS": "0"}


class Keeper:
    """An actor on the caller's machine that has the run's file open; one call at a time."""

    def __init__(self, path: str) -> None:
        self._store = Store.open(path, check=False)
        self._dismissed: set[str] = set()

    def dismiss(self, workers: list[str]) -> None:
        """Refuse what these workers say from now on: killed ones may have a message on the way, to take a job."""
        self._dismissed.update(workers)

    def call(self, sender: str, name: str, arguments: tuple[Any, ...]) -> tuple[Any, TracerError | None]:
        """The result of a method of the store, or its error, which Ray would wrap."""
        if sender in self._dismissed:
            return None, WorkerError(f"worker {sender} is dismissed; the run that began it has ended")
        try:
            return getattr(self._store, name)(*arguments), None
        except TracerError as error:
            return None, type(error)(str(error))


class Remote(Claiming):
    """A store as a worker sees it from afar; the same methods, each a message."""

    def __init__(self, keeper: Any, worker: str) -> None:
        self._keeper, self._worker = keeper, worker

    def _call(self, name: str, *arguments: Any) -> Any:
        import ray

        value, error = ray.get(self._keeper.call.remote(self._worker, name, arguments))
        if error is not None:
            raise error
        return value

    def take(self, worker: str) -> tuple[Job, frozenset[str]] | None:
        """Take a job; see `tracer.runs.claim.Backend`, as for all methods."""
        return self._call("take", worker)

    def commit(self, worker: str, key: str, item: str, rows: Rows, blobs: Mapping[str, bytes]) -> None:
        """Write down an item."""
        self._call("commit", worker, key, item, rows, blobs)

    def finish(self, worker: str, key: str) -> None:
        """End the job as done."""
        self._call("finish", worker, key)

    def fail(self, worker: str, key: str, error: str) -> None:
        """End the job as failed."""
        self._call("fail", worker, key, error)

    def release(self, worker: str, lost: bool = False) -> None:
        """Give back what the worker has."""
        self._call("release", worker, lost)

    def beat(self, worker: str) -> None:
        """Note that the worker lives."""
        self._call("beat", worker)

    def blob(self, key: str, name: str) -> bytes | None:
        """Bytes a job has kept."""
        return self._call("blob", key, name)

    def settings(self) -> dict[str, Any]:
        """The settings of the run."""
        return self._call("settings")

    def lease(self) -> float:
        """Seconds without a sign of life after which a claim is free."""
        return self._call("lease")

    def progress(self) -> Counts:
        """Counts of items and jobs so far."""
        return self._call("progress")


class Member:
    """An actor that works."""

    def work(self, keeper: Any, work: str, worker: str, given: Any, paths: list[str]) -> tuple[str, str] | None:
        """Work until nothing is left to do; returns the reason if something kept it from that."""
        sys.path += [path for path in paths if path not in sys.path]
        os.environ["TRACER_PROGRESS"] = "0"
        try:
            store = Remote(keeper, worker)
            loop(store, made(resolve(work), store.settings(), given), worker)
        except Exception as error:
            text = described(error)
            return (
                "storage" if isinstance(error, StorageError) else "error",
                text.splitlines()[0] if isinstance(error, TracerError) else text,
            )
        return None


class Actors:
    """Workers that are Ray actors, on whatever nodes Ray puts them."""

    def __init__(self, path: Path, work: str, workers: int, address: str, given: Any) -> None:
        self._path, self._work, self._workers, self._address, self._given = path, work, workers, address, given
        self._alive: dict[Any, tuple[Any, str]] = {}  # reference to the work's result: the actor, and its name

    def __enter__(self) -> Actors:
        self._connection = _connected(self._address, self._workers)
        ray = self._ray = self._connection.__enter__()
        try:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
            kept = ray.remote(Keeper).options(num_cpus=0, scheduling_strategy=here)
            self._keeper = kept.remote(str(self._path.absolute()))
            self._given = ray.put(self._given)
            gpus = ray.cluster_resources().get("GPU", 0)
            self._options = {"num_cpus": 1, "num_gpus": min(1, gpus / self._workers)}
        except BaseException:
            self._connection.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        try:
            for actor, _worker in self._alive.values():
                self._ray.kill(actor)
            with suppress(Exception):
                workers = [worker for _, worker in self._alive.values()]
                self._ray.get(self._keeper.dismiss.remote(workers), timeout=10)
                with Store.open(self._path, check=False) as store:
                    for worker in workers:  # not to wait until they are missed
                        store.release(worker)
            self._ray.kill(self._keeper)
        finally:
            self._connection.__exit__(None, None, None)

    def start(self) -> None:
        """Start one more worker."""
        # named after this process: if it dies, its actors are dead to others, and Ray ends them
        worker = str(Worker.here())
        actor = self._ray.remote(Member).options(**self._options).remote()
        # given as a reference, it goes once to each node
        self._alive[actor.work.remote(self._keeper, self._work, worker, self._given, sys.path)] = actor, worker

    def size(self) -> int:
        """Number of workers."""
        return len(self._alive)

    def ended(self) -> list[Ending]:
        """Those that ended since the last call; waits a little for one."""
        ready, _ = self._ray.wait(list(self._alive), num_returns=len(self._alive), timeout=0.05)
        return [self._ending(reference) for reference in ready]

    def _ending(self, reference: Any) -> Ending:
        actor, worker = self._alive.pop(reference)
        try:
            said = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            self._ray.get(self._keeper.dismiss.remote([worker]))
            return Ending(worker, died=" ".join(str(error).split())[:200])
        except self._ray.exceptions.RayError as error:
            return Ending(worker, error=f"a worker could not begin: {' '.join(str(error).split())[:500]}")
        self._ray.kill(actor)
        return Ending(worker) if said is None else Ending(worker, error=said[1], storage=said[0] == "storage")


def _reach(address: str) -> None:
    """Check that something answers at host:port; Ray itself would try for minutes.

    Raises:
        TracerError: nothing does.
    """
    host, _, port = address.rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        except OSError as error:
            raise ClusterError(f"there is no Ray cluster at {address!r} ({error}); 'local' starts one here") from error


@contextmanager
def _connected(address: str, workers: int) -> Iterator[Any]:
    """Ray, connected to `address` unless it is connected already."""
    try:
        import ray
    except ImportError as error:
        raise ClusterError(
            f"a cluster needs Ray: {install('cluster')}; or leave cluster out, and workers=N uses this machine"
        ) from error
    if ray.is_initialized():
        yield ray
        return
    if not isinstance(address, str) or address.startswith("ray://"):
        raise ClusterError(
            f"cluster is {address!r}; expected 'local', 'auto' or host:port, from a machine that is part of the cluster"
        )
    _reach(address)
    own: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update({name: value for name, value in QUIET.items() if before[name] is None})
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"there is no Ray cluster at {address!r} ({error}); 'local' starts one here") from error
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
    try:
        yield ray
    finally:
        ray.shutdown()
