"""Workers that are processes of this machine."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracer.errors import WorkerError, out_of_memory

from .crew import Ending

GRACE = 5.0
"""Seconds a worker has to end."""


class Processes:
    """New Python processes, each of which runs `tracer.runs.worker`.

    Their standard input is a pipe on which nothing comes. Its end tells them that this process is gone or wants them
    to stop; they then end at once, as a kill would end them, which does no harm to the run's file.
    """

    def __init__(self, path: Path, work: str, workers: int, given: Any) -> None:
        self._path, self._work, self._given = path.absolute(), work, given
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads(workers, os.environ)),
            "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
            "TRACER_PROGRESS": "0",
        }
        self._alive: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Processes:
        try:
            content = pickle.dumps(self._given)
        except Exception as error:  # pickle raises whatever it meets
            if out_of_memory(error):
                raise
            raise WorkerError(
                f"what is given to the work cannot be sent to other processes ({error}); pass plain "
                "values, or use one worker"
            ) from error
        with tempfile.NamedTemporaryFile(prefix="tracer-run-", delete=False) as file:
            self._pickled = Path(file.name)
            file.write(content)
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self._alive:
            assert process.stdin is not None
            process.stdin.close()
        end = time.monotonic() + GRACE
        for process in self._alive:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()
        self._pickled.unlink(missing_ok=True)

    def start(self) -> None:
        """Start one more worker."""
        command = [sys.executable, "-P", "-m", "tracer.runs.worker", str(self._path), self._work, str(self._pickled)]
        process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for this process, which then ends the workers
        )
        self._alive.append(process)

    def size(self) -> int:
        """Number of workers."""
        return len(self._alive)

    def ended(self) -> list[Ending]:
        """Those that ended since the last call; waits a little."""
        time.sleep(0.05)
        return [self._ending(process) for process in list(self._alive) if process.poll() is not None]

    def _ending(self, process: subprocess.Popen[str]) -> Ending:
        self._alive.remove(process)
        assert process.stdin is not None and process.stdout is not None
        with process.stdin, process.stdout:
            said = process.stdout.read()
        if process.returncode == 0:
            return Ending()
        if said:
            kind, _, text = said.partition("\n")
            return Ending(error=text, storage=kind == "storage")
        if process.returncode < 0:
            return Ending(died=f"killed by {signal.Signals(-process.returncode).name}")
        return Ending(died=f"exit status {process.returncode}")


def threads(workers: int, environment: Mapping[str, str]) -> int:
    """Number of threads of each worker, so that all of them together fill the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // workers)
    allowed = environment.get("OMP_NUM_THREADS", "")
    return min(share, int(allowed)) if allowed.isdigit() and int(allowed) else share
