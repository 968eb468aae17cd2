"""Peak memory of a computation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from tracer.model import Model

INTERVAL = 0.01  # seconds between looks


@contextmanager
def peak_memory(model: Model) -> Iterator[Callable[[], int]]:
    """Context that yields a function for the peak of bytes held, inside or afterwards, above those held before.

    On CUDA it is the allocator's own peak; elsewhere the process's resident memory, looked at a hundred times a second.
    """
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
        peak = [0]

        def look() -> int:
            peak[0] = max(peak[0], torch.cuda.max_memory_allocated(model.device) - before)
            return peak[0]

        yield look
        look()
        return
    import psutil

    process = psutil.Process()
    start = process.memory_info().rss
    highest = [0]
    done = threading.Event()

    def watch() -> None:
        while True:
            highest[0] = max(highest[0], process.memory_info().rss - start)
            if done.wait(INTERVAL):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: highest[0]
    finally:
        done.set()
        thread.join()
