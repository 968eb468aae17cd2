"""Work of runs in tests, which new processes import: quick, and with the same rows whoever does it."""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tracer.errors import TracerError
from tracer.runs import Claim, Job, Store

TABLES = {"numbers": ["name", "value", "n"], "texts": ["text"]}
SETTINGS = {"seed": 3, "layers": [1, 2]}
LIGHT = """
import sys, types
sys.modules["tracer"] = types.ModuleType("tracer")
sys.modules["tracer"].__path__ = [{!r}]
"""
"""As ``sitecustomize``, lets new processes import parts of the package without all of it, and so without torch."""


def jobs_of(count: int = 6, items: int = 5, **more: Any) -> list[Job]:
    """Every third job comes after the one before it."""
    names = tuple(f"item {i}" for i in range(items))
    return [Job(f"job {j}", {"j": j, **more}, names, (f"job {j - 1}",) * (j % 3 == 2)) for j in range(count)]


def made(path: Path, jobs: list[Job] | None = None, lease: float = 60.0) -> Store:
    return Store.create(path, jobs or jobs_of(), SETTINGS, TABLES, lease=lease)


def light(folder: Path) -> Path:
    """A folder to be put on the path of new processes."""
    folder.mkdir()
    package = Path(sys.modules[TracerError.__module__].__file__ or "").parents[1]
    (folder / "sitecustomize.py").write_text(LIGHT.format(str(package)))
    return folder


def work(settings: dict[str, Any], given: dict[str, Any] | None = None) -> Callable[[Claim], None]:
    """Rows by a fixed rule, some with nan; a running sum is carried from item to item in a blob."""
    given = given or {}

    def do(claim: Claim) -> None:
        j = claim.job.payload["j"]
        for i, item in enumerate(claim.job.items):
            if item in claim.done:
                continue
            draw = random.Random(f"{settings['seed']} {j} {i}")
            time.sleep(claim.job.payload.get("pause", 0))
            if given.get("fatal") == item and j == 1 and not Path(given["once"]).exists():
                Path(given["once"]).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if claim.job.payload.get("poison") and j == 1 and i == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            if given.get("raise") and j == 3 and i == 2:
                raise RuntimeError("no such\nluck")
            total = int(claim.blob("sum") or b"0") + draw.randrange(1000)
            rows = [{"name": item, "value": math.nan if k == 1 else draw.random(), "n": k} for k in range(i % 3 + 1)]
            claim.commit(item, {"numbers": rows, "texts": [{"text": f"é {total}"}]}, {"sum": str(total).encode()})

    return do


def not_made(settings: dict[str, Any]) -> Any:
    raise TracerError("this cannot be made; repair it")


def dies_at_once(settings: dict[str, Any]) -> Any:
    os._exit(9)


def stalls(settings: dict[str, Any]) -> Callable[[Claim], None]:
    """Says who it is and does not end."""

    def do(claim: Claim) -> None:
        claim.commit("item 0", {"texts": [{"text": str(os.getpid())}]})
        time.sleep(60)

    return do


def frames(path: Path) -> list[Any]:
    with Store.open(path) as store:
        return [store.frame(table) for table in TABLES]


def assert_same(one: Path, other: Path) -> None:
    """The same rows in the same order, none lost and none twice."""
    import pandas as pd

    for a, b in zip(frames(one), frames(other), strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=True)


def until(ask: Callable[[], list[Any]], count: int) -> list[Any]:
    end = time.monotonic() + 30
    while len(found := ask()) < count:
        assert time.monotonic() < end
        time.sleep(0.02)
    return found
