"""`python -m tracer.runs.worker PATH WORK GIVEN`: a worker of [`tracer.runs.run`][] in a process of its own."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from contextlib import suppress
from pathlib import Path

from tracer.errors import TracerError

from .job import StorageError
from .store import Store
from .work import described, loop, made, resolve
from .worker_id import Worker


def main(path: str, work: str, given: str) -> int:
    """Work until nothing is left to do. Returns the exit status; why it is not 0 goes to standard output."""
    report = os.dup(1)
    os.dup2(2, 1)  # the work's output must not be taken for the report
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with Store.open(path, check=False) as store:
            doing = made(resolve(work), store.settings(), pickle.loads(Path(given).read_bytes()))
            loop(store, doing, str(Worker.here()))
        return 0
    except Exception as error:
        kind = "storage" if isinstance(error, StorageError) else "error"
        text = described(error)[:20000]  # a pipe holds no more until it is read, which is when this process has ended
        with open(report, "w", encoding="utf-8", closefd=False) as file:
            file.write(f"{kind}\n{text.splitlines()[0] if isinstance(error, TracerError) else text}")
        return 1


def _end_with_parent() -> None:
    # not by way of sys.stdin, whose lock the interpreter wants at its end
    while True:
        with suppress(InterruptedError):
            if not os.read(0, 1):
                os._exit(1)


if __name__ == "__main__":
    status = main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # at once: further clean-up takes long, and nothing depends on it
