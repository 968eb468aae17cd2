"""Runs by one process and by several: failures are told, a full disk or a kill loses nothing and doubles nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repository import surroundings
from runs_work import assert_same, jobs_of, light, made, until

from tracer.errors import TracerError
from tracer.runs import Counts, Failed, Job, StorageError, Store, crew, local, run, schema, worker_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a run.db"


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New processes begin without torch."""
    monkeypatch.syspath_prepend(light(tmp_path / "light"))


@pytest.fixture
def whole(tmp_path: Path) -> Callable[..., Path]:
    """A run that nothing disturbed."""

    def finished(*shape: Any, **more: Any) -> Path:
        made(tmp_path / "whole.db", jobs_of(*shape, **more)).close()
        run(tmp_path / "whole.db", "runs_work:work")
        return tmp_path / "whole.db"

    return finished


def python(script: str, *arguments: Any, **more: Any) -> subprocess.Popen[str]:
    environment = surroundings(*sys.path)
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **more)


# --- failures --------------------------------------------------------------------------------------------------------
def test_a_job_that_fails_stops_only_what_comes_after_it(path: Path, whole: Callable[..., Path]) -> None:
    made(path).close()
    order = []
    with pytest.raises(Failed) as failed:
        run(path, "runs_work:work", given={"raise": 1}, each=lambda store: order.append(store.progress().done))
    assert str(failed.value).startswith(
        f"1 of the jobs in {path} failed ('job 3': RuntimeError: no such luck). The others"
    )
    assert order[:3] == [0, 1, 2]
    with Store.open(path) as store:
        assert store.progress() == Counts(5 * 5 + 2, 30, 1, 0, 0)
        assert list(store.errors()) == ["job 3"] and "Traceback" in store.errors()["job 3"]
        with pytest.raises(Failed, match="1 of the jobs"):
            run(path, "runs_work:work")  # not by itself
        assert store.retry_failed() == 1 and store.errors() == {}
        assert run(path, "runs_work:work") == Counts(30, 30, 0, 0, 0) == store.progress()
    assert_same(path, whole())


def test_jobs_after_one_that_fails_are_not_begun(path: Path) -> None:
    made(
        path, [*jobs_of()[:5], Job("last", {"j": 9}, ("x",), ("job 3",)), Job("very last", {"j": 8}, (), ("last",))]
    ).close()
    with pytest.raises(Failed, match=r"1 of the jobs in .* failed, and 2 that come after them were not begun"):
        run(path, "runs_work:work", given={"raise": 1})
    with Store.open(path) as store:
        store.retry_failed()
        assert run(path, "runs_work:work").open == 0


def test_a_job_with_items_left_has_failed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runs_work.work", lambda settings: lambda claim: None)
    made(path, [Job("a", items=("x",))]).close()
    with pytest.raises(Failed, match="'a' was ended without 1 of its items, such as 'x'"):
        run(path, "runs_work:work")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("workers", "name", "message"),
    [
        (1, "runs_work:not_made", "^this cannot be made; repair it$"),
        (2, "runs_work:not_made", "^this cannot be made; repair it$"),
        (2, "runs_work:no_such", "cannot be imported"),
        (2, "no_such_module:work", "cannot be imported .*no_such_module"),
        (2, "work", "expected 'module:callable'"),
        (2, "__main__:work", "module of its own"),
        (2, "runs_work:TABLES", "is a dict; expected a callable"),
    ],
)
def test_work_that_cannot_be_begun(path: Path, workers: int, name: str, message: str) -> None:
    made(path).close()
    with pytest.raises(TracerError, match=message):
        run(path, name, workers=workers)
    with Store.open(path) as store:
        assert store.progress() == Counts(0, 30, 0, 0, 6)


def test_workers_and_what_is_given(path: Path) -> None:
    made(path).close()
    for wrong in (0, True, 1.5):
        with pytest.raises(TracerError, match="workers is"):
            run(path, "runs_work:work", workers=wrong)  # type: ignore[arg-type]
    with pytest.raises(TracerError, match="cannot be sent to other processes"):
        run(path, "runs_work:work", workers=2, given={"f": lambda: 0})
    assert local.threads(2, {"OMP_NUM_THREADS": "1"}) == 1 and local.threads(10**6, {}) == 1
    assert local.threads(1, {}) == len(os.sched_getaffinity(0))


# --- a full disk -----------------------------------------------------------------------------------------------------
def test_a_disk_that_is_full_loses_nothing(
    path: Path, whole: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite is allowed a few more pages only."""
    made(path, jobs_of(6, 40)).close()
    real = schema.connect

    def small(where: Path) -> sqlite3.Connection:
        db = real(where)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count={pages + 2}")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(schema, "connect", small)
        with pytest.raises(StorageError, match=r"cannot be written \(.* full\); make room on the disk and run again"):
            run(path, "runs_work:work")
    with Store.open(path) as store:
        done = store.progress()
        assert 0 < done.done < done.total and done.failed == done.claimed == 0
    run(path, "runs_work:work")
    assert_same(path, whole(6, 40))


LIMITED = """
import resource, sys
from pathlib import Path
from tracer.runs import StorageError, run
path = sys.argv[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (Path(path).stat().st_size + 60_000, resource.RLIM_INFINITY))
try:
    run(path, "runs_work:work")
except StorageError as error:
    print(error)
"""


@pytest.mark.usefixtures("quick")
def test_a_file_that_may_not_grow_loses_nothing(path: Path, whole: Callable[..., Path]) -> None:
    """The system refuses to write, in the middle of a transaction."""
    made(path, jobs_of(6, 40)).close()
    with python(LIMITED, path) as child:
        said = child.communicate(timeout=60)[0]
    assert "make room on the disk and run again" in said
    with Store.open(path) as store:
        assert 0 < store.progress().done < store.progress().total and not store.errors()
    run(path, "runs_work:work")
    assert_same(path, whole(6, 40))


# --- several processes, killed ---------------------------------------------------------------------------------------
def test_two_workers_one_of_which_dies(path: Path, tmp_path: Path, whole: Callable[..., Path]) -> None:
    """A third takes its place; meanwhile the file is read."""
    made(path, jobs_of(pause=0.002)).close()
    seen = []
    given = {"fatal": "item 3", "once": str(tmp_path / "died")}
    run(path, "runs_work:work", workers=2, given=given, each=lambda store: seen.append(len(store.rows("texts"))))
    assert (tmp_path / "died").exists() and seen[0] == 0 and seen[-1] == 30 and seen == sorted(seen)
    assert_same(path, whole(pause=0.002))
    assert not Path(f"{path}-wal").exists()


@pytest.mark.usefixtures("quick")
def test_a_job_that_kills_its_workers_fails(path: Path) -> None:
    made(path, jobs_of(2, 4, poison=1)).close()
    with pytest.raises(Failed, match=r"1 of the jobs in .* failed \('job 1': its worker ended 3 times without a word"):
        run(path, "runs_work:work", workers=2)
    with Store.open(path) as store:
        assert store.progress() == Counts(4 + 2, 8, 1, 0, 0)


@pytest.mark.usefixtures("quick")
def test_workers_that_all_die_at_once_are_not_replaced_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LOSSES", 1)
    made(path, jobs_of(2)).close()
    with pytest.raises(TracerError, match=r"3 workers ended one after the other \(exit status 9\)"):
        run(path, "runs_work:dies_at_once", workers=2)


PARENT = "import sys; from tracer.runs import run; run(sys.argv[1], 'runs_work:stalls', workers=2)"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_process_that_started_them(path: Path, how: signal.Signals) -> None:
    made(path, [Job(key, items=("item 0", "item 1")) for key in "ab"]).close()
    with python(PARENT, path, stderr=subprocess.PIPE) as parent, Store.open(path) as store:
        workers = until(lambda: [int(text) for (text,) in store.rows("texts")], 2)
        parent.send_signal(how)
        assert "Traceback" not in parent.communicate(timeout=30)[1] or how == signal.SIGINT
        assert parent.returncode == -how
        until(lambda: [pid for pid in workers if worker_id._started(pid) is None], 2)
        claim = store.claim("next")  # at once, not after the lease
        assert claim and claim.job.key == "a" and claim.done == {"item 0"}


KILLED = """
import os, random, signal, sys, time
from runs_work import work
from tracer.runs import Store, run
from tracer.runs.work import loop
from tracer.runs.worker_id import Worker
path, workers, kills, draw = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), random.Random(sys.argv[2])
for _ in range(kills):  # forked, so that the imports are paid for once
    (end, log), children = os.pipe(), []
    for number in range(workers):
        children.append(os.fork())
        if children[-1] == 0:
            count = lambda *_: os.write(log, b"x")
            if workers == 1:
                run(path, "runs_work:work", progress=False, each=count)
            else:
                count()
                with Store.open(path) as store:
                    store.forgive()
                    loop(store, work(store.settings()), str(Worker.here()), count)
            os._exit(0)
    for _ in range(draw.randrange(1, 20)):  # begun, or an item done
        os.read(end, 1)
    for child in children:
        time.sleep(draw.uniform(0, 0.004))
        os.kill(child, signal.SIGKILL)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with Store.open(path) as store:
        print(store.progress().done)
"""


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_nothing_is_lost_and_nothing_done_twice(
    path: Path, workers: int, whole: Callable[..., Path]
) -> None:
    made(path, jobs_of(12, 100)).close()  # without a pause, so that kills come in the middle of transactions
    with python(KILLED, path, workers, 20) as child:
        reached = [int(line) for line in child.communicate(timeout=60)[0].split()]
    assert child.returncode == 0
    assert len(reached) == 20 and reached == sorted(reached) and len(set(reached)) > 10 and reached[-1] < 1200
    assert run(path, "runs_work:work", progress=False) == Counts(1200, 1200, 0, 0, 0)
    assert_same(path, whole(12, 100))


def test_without_ray_it_says_how_to_get_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(path).close()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(
        TracerError, match=r'a cluster needs Ray: pip install "tracer-workbench\[cluster\]"; or leave cluster out'
    ):
        run(path, "runs_work:work", workers=2, cluster="local")
