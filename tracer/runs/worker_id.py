"""Identity of a worker, by which others can tell whether it still lives."""

from __future__ import annotations

import json
import os
import platform
import secrets
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Worker:
    """A worker in a process of a machine.

    Attributes:
        host: the machine since its last start, and the container.
        pid: the process.
        started: the start of the process, since numbers of processes are used again.
        token: random, as a process may hold several workers.
    """

    host: str
    pid: int
    started: str
    token: str

    @classmethod
    def here(cls) -> Worker:
        """A new worker in this process."""
        pid = os.getpid()
        return cls(_host(), pid, _started(pid) or "", secrets.token_hex(6))

    @classmethod
    def parse(cls, text: str) -> Worker | None:
        """The worker that `str` made `text` of; None for any other text."""
        try:
            host, pid, started, token = json.loads(text)
            return cls(str(host), int(pid), str(started), str(token))
        except (ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return json.dumps(astuple(self))

    def dead(self) -> bool:
        """Whether its process is known to have ended; of other machines nothing is known."""
        return self.host == _host() and _started(self.pid) != self.started


def _host() -> str:
    """Name of the machine; on Linux with its present boot, and the container inside which its pids have a meaning."""
    parts = [platform.node()]
    with suppress(OSError):
        parts += [(PROC / "sys/kernel/random/boot_id").read_text().strip()[:8], os.readlink(PROC / "self/ns/pid")]
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process was started; None if it does not live."""
    if (PROC / "self/stat").exists():
        try:
            fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]  # ended but not yet waited for; else in ticks since boot
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.Error:
        return None
