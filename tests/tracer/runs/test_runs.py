"""The file of a run: every item once, values as they were, whoever has a job; nothing else is opened."""

from __future__ import annotations

import math
import os
import random
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from runs_work import SETTINGS, TABLES, assert_same, frames, jobs_of, made, until

from tracer.errors import TracerError
from tracer.runs import Claim, Counts, Job, Lost, StorageError, Store, run, worker_id
from tracer.runs.worker_id import Worker


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a run.db"


# --- jobs, items and rows --------------------------------------------------------------------------------------------
def test_jobs_are_handed_out_once_and_in_their_order(path: Path) -> None:
    jobs = [Job("a", items=("x",)), Job("b", {"k": [1]}, ("x", "y"), ("d",)), Job("c"), Job("d", items=("x",))]
    with made(path, jobs) as store, Store.open(path) as other:
        first, second, third = store.claim("one"), other.claim("two"), store.claim("one")
        assert first and second and third
        assert [first.job, second.job, third.job] == [jobs[0], jobs[2], jobs[3]]
        assert store.claim("three") is None and other.progress() == Counts(0, 4, 0, 3, 4)
        second.finish()
        third.commit("x", {})
        assert store.claim("three") is None  # b comes after d, which is not finished
        third.finish()
        last = other.claim("three")
        assert last and last.job == jobs[1] and last.job.payload == {"k": [1]}
        with pytest.raises(TracerError, match="ended without 1 of its items, such as 'y'"):
            last.commit("x")
            last.finish()
        last.commit("y")
        assert last.done == {"x", "y"}
        last.finish()
        first.fail("because")
        assert store.progress() == Counts(3, 4, 1, 0, 0) and store.claim("one") is None


def test_tables_do_not_depend_on_the_order_of_work(path: Path, tmp_path: Path) -> None:
    for file, backwards in ((path, False), (tmp_path / "b", True)):
        with made(file, [Job("a", items=("x", "y")), Job("b", items=("z",))]) as store:
            claims = [store.claim("w"), store.claim("w")]
            for claim in reversed(claims) if backwards else claims:
                assert claim
                for item in reversed(claim.job.items) if backwards else claim.job.items:
                    claim.commit(item, {"numbers": [{"name": item, "value": v, "n": 1} for v in (2.0, 1.0)]})
                claim.finish()
    assert_same(path, tmp_path / "b")
    assert list(frames(path)[0]["name"]) == ["x", "x", "y", "y", "z", "z"]
    assert list(frames(path)[0]["value"]) == [2.0, 1.0] * 3
    plain = sqlite3.connect(path)  # the columns are what their names say to others, too
    assert plain.execute("SELECT name, value FROM numbers ORDER BY job_job, job_item, job_row").fetchall()[1] == (
        "x",
        1.0,
    )
    assert dict(plain.execute("SELECT key, value FROM settings"))["layers"] == "[1, 2]"
    plain.close()


def test_values_come_back_as_they_were(path: Path) -> None:
    import numpy as np

    values = [None, math.nan, math.inf, -0.0, 0, 1, 1.0, -(2**63), 2**63 - 1, 5e-324, "", "\0é\n'\"", b"", b"\0\xff"]
    with made(path, [Job("a", items=("x", "y"))]) as store:
        claim = store.claim("w")
        assert claim
        claim.commit("x", {"numbers": [{"value": v, "name": "nan"} for v in values]})
        claim.commit("y", {"numbers": [{"value": v, "n": math.nan} for v in (np.float32(0.5), np.int64(3), True)]})
        found = [row[1] for row in store.rows("numbers")]
        assert [(type(v), repr(v)) for v in found[: len(values)]] == [(type(v), repr(v)) for v in values]
        assert [(type(v), v) for v in found[len(values) :]] == [(float, 0.5), (int, 3), (int, 1)]
        assert [row[0] for row in store.rows("numbers")][-2:] == [None, None]
        frame = store.frame("numbers").iloc[len(values) :]
        assert frame["n"].isna().all() and store.frame("texts").columns.tolist() == ["text"]
    alone = path.with_name("nan")
    with made(alone, [Job("a", items=("x",))]) as store:
        claim = store.claim("w")
        assert claim
        claim.commit("x", {"numbers": [{"name": "only", "value": math.nan, "n": 1}]})
        assert store.frame("numbers")["value"].dtype == float and store.frame("numbers")["n"].dtype == int


@pytest.mark.parametrize(
    ("item", "rows", "blobs", "message"),
    [
        ("z", {}, {}, "job 'job 0' has no item 'z'"),
        ("item 0", {}, {}, "'item 0' of job 'job 0' was committed before; each is written once"),
        ("item 1", {"other": []}, {}, "no table 'other' in .*; it has numbers, texts"),
        ("item 1", {"texts": [{"text": "a"}, {"txt": "b"}]}, {}, "'texts' has no column 'txt'; it has text"),
        ("item 1", {"texts": ["a"]}, {}, "a row of 'texts' is 'a'; expected a mapping"),
        (
            "item 1",
            {"texts": [{"text": "a"}], "numbers": [{"n": 2**63}]},
            {},
            "column 'n' of 'numbers' is 9223.*64 bits",
        ),
        ("item 1", {"texts": [{"text": [1]}]}, {}, "column 'text' of 'texts' is list; expected text, int, float"),
        ("item 1", {"texts": [{"text": "\ud800"}]}, {}, "column 'text' of 'texts' is no text that can be kept"),
        ("item 1", {"texts": [{"text": "a"}]}, {"b": "text"}, "blob 'b' is str; expected bytes"),
    ],
)
def test_what_cannot_be_kept_leaves_nothing(path: Path, item: str, rows: Any, blobs: Any, message: str) -> None:
    with made(path) as store:
        claim = store.claim("w")
        assert claim
        claim.commit("item 0", {"texts": [{"text": "kept"}]}, {"b": b"1"})
        with pytest.raises(TracerError, match=message):
            claim.commit(item, rows, blobs)
        assert (store.rows("texts"), claim.blob("b"), claim.done) == ([["kept"]], b"1", {"item 0"})
        claim.commit("item 1", {}, {"b": b"2"})
        assert claim.blob("b") == b"2" and claim.blob("c") is None and store.progress().done == 2
        assert claim.blob_of("job 1", "b") is None
        with pytest.raises(TracerError, match="no job 'job 9'"):
            claim.blob_of("job 9", "b")


# --- going on with a file, and files that are none -------------------------------------------------------------------
@pytest.mark.parametrize(
    ("jobs", "settings", "tables", "message"),
    [
        (jobs_of(), {**SETTINGS, "seed": 4}, TABLES, "its setting 'seed' is 3, here 4"),
        (jobs_of(), {**SETTINGS, "new": None}, TABLES, "its setting 'new' is 'not set', here None"),
        (jobs_of(), SETTINGS, {**TABLES, "texts": ["t"]}, "its tables is .*'text'.*, here .*'t'"),
        (jobs_of(5), SETTINGS, TABLES, "its number of jobs is 6, here 5"),
        (jobs_of(7), SETTINGS, TABLES, "its number of jobs is 6, here 7"),
        (jobs_of(items=4), SETTINGS, TABLES, "its items of job 'job 0' is .*'item 4'\\), here"),
        (jobs_of(pause=1), SETTINGS, TABLES, r"its payload of job 'job 0' is \{'j': 0\}, here \{'j': 0, 'pause': 1\}"),
        (jobs_of()[::-1], SETTINGS, TABLES, "its job 0 is 'job 0', here 'job 5'"),
        ([*jobs_of()[:5], Job("job 5", {"j": 5}, jobs_of()[5].items)], SETTINGS, TABLES, "dependencies of job 'job 5'"),
    ],
)
def test_the_same_run_is_gone_on_with_and_no_other(
    path: Path, jobs: Any, settings: Any, tables: Any, message: str
) -> None:
    with made(path) as store:
        claim = store.claim("w")
        assert claim
        claim.commit("item 0")
    with made(path) as store:
        assert store.progress().done == 1 and store.settings() == SETTINGS
    before = path.read_bytes()
    with pytest.raises(TracerError, match=f"holds another run: .*({message}).*choose another file"):
        Store.create(path, jobs, settings, tables)
    assert path.read_bytes() == before and [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("jobs", "tables", "message"),
    [
        ([], TABLES, "at least one job"),
        ([Job("a"), Job("a")], TABLES, "two jobs have the key 'a'"),
        ([Job("a", after=("b",))], TABLES, "'a' comes after 'b', which is no job"),
        ([Job("a", after=("b",)), Job("b", after=("a",))], TABLES, "wait for each other: .* -> "),
        (["a"], TABLES, "'a' was given as a job"),
        (jobs_of(), {"settings": []}, "'settings' is kept for the run itself"),
        (jobs_of(), {"a": ["job_x"]}, "'job_x' is kept for the run itself; give the column of a another"),
        (jobs_of(), {"a": ["x", "X"]}, "the same but for case"),
        (jobs_of(), {"": ["x"]}, "cannot be the name of a table"),
    ],
)
def test_what_is_no_run_is_refused_before_a_file_is_made(path: Path, jobs: Any, tables: Any, message: str) -> None:
    with pytest.raises(TracerError, match=message):
        Store.create(path, jobs, SETTINGS, tables)
    assert list(path.parent.iterdir()) == []


def test_what_is_no_job(path: Path) -> None:
    for build, message in [
        (lambda: Job("a", items=("x", "x")), "item 'x' twice"),
        (lambda: Job("a", {"k": {1}}), "payload of job 'a' cannot be written as json"),
        (lambda: Job("a", items="xy"), "expected several texts"),  # type: ignore[arg-type]
        (lambda: Job(""), "expected text"),
        (lambda: Store.create(path, [Job("a")], {"k": {1}}, {}), "settings of a run cannot be written as json"),
        (lambda: Store.create(path, [Job("a")], {}, {}, lease=0), "lease is 0"),
    ]:
        with pytest.raises(TracerError, match=message):
            build()


def damaged(path: Path, kind: str) -> str:
    """Spoils a file in one way; returns what is to be said of it."""
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
        return "there is no file"
    if kind == "folder":
        path.unlink()
        path.mkdir()
        return "cannot be read"
    if kind in ("empty", "text"):
        path.write_bytes(b"" if kind == "empty" else b"hello " * 1000)
        return "is not the file of a run"
    if kind == "other":
        path.unlink()
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE t(a)")
        db.close()
        return "is not the file of a run"
    if kind == "version":
        path.write_bytes(content[:60] + (7).to_bytes(4, "big") + content[64:])
        return "in version 7; expected version 1"
    size = len(content)
    if kind.startswith("cut"):
        path.write_bytes(content[: int(size * float(kind[3:]))])
    else:
        path.write_bytes(content[: size // 2] + random.Random(0).randbytes(3000) + content[size // 2 + 3000 :])
    return "is damaged|is not the file of a run"


@pytest.mark.parametrize(
    "kind", ["missing", "folder", "empty", "text", "other", "version", "cut0.001", "cut0.3", "cut0.999", "overwritten"]
)
def test_a_file_that_is_no_whole_run_is_refused(path: Path, kind: str) -> None:
    made(path).close()
    run(path, "runs_work:work")
    message = damaged(path, kind)
    with pytest.raises(TracerError, match=message):
        Store.open(path)


def test_what_is_left_of_a_removed_run_is_not_added_to_a_new_one(path: Path) -> None:
    with made(path) as store:
        claim = store.claim("w")
        assert claim
        claim.commit("item 0")
        path.unlink()
        shutil.copy(f"{path}-wal", path.with_name("log"))
    shutil.copy(path.with_name("log"), f"{path}-wal")
    with pytest.raises(TracerError, match="wal is left over from a file that was removed; remove it too"):
        made(path)


def test_places_that_cannot_be_written(path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be opened to write|cannot write"):
        made(path / "below")
    store = made(path)
    store.close()
    with pytest.raises(TracerError, match="was closed; open it again"):
        store.progress()


# --- workers that are gone -------------------------------------------------------------------------------------------
def test_a_worker_that_lost_its_job_writes_no_more(path: Path) -> None:
    with made(path, lease=0.05) as store:
        slow = store.claim("slow")
        assert slow
        slow.commit("item 0", {"texts": [{"text": "first"}]})
        time.sleep(0.1)
        with Store.open(path) as other:
            quick = other.claim("quick")
            assert quick and quick.job == slow.job and quick.done == {"item 0"}
            for act in (lambda: slow.commit("item 1", {"texts": [{"text": "x"}]}), slow.finish, lambda: slow.fail("x")):
                with pytest.raises(Lost, match="job 'job 0' is no longer this worker's"):
                    act()
            quick.commit("item 1", {"texts": [{"text": "second"}]})
        assert store.rows("texts") == [["first"], ["second"]] and store.errors() == {}


def test_a_sign_of_life_keeps_a_job(path: Path) -> None:
    """An item takes longer than the lease, and another worker asks all the while."""
    seen: list[Any] = []

    def sleeps(claim: Claim) -> None:
        end = time.monotonic() + 0.4
        with Store.open(path) as other:
            while time.monotonic() < end:
                seen.append(other.claim("other"))
                time.sleep(0.02)
        claim.commit("x")

    from tracer.runs.work import loop

    with made(path, [Job("a", items=("x",))], lease=0.12) as store:
        loop(store, sleeps, "one")
        assert set(seen) == {None} and store.progress() == Counts(1, 1, 0, 0, 0)


def test_the_dead_are_told_from_the_living(path: Path) -> None:
    here = Worker.here()
    assert Worker.parse(str(here)) == here and not here.dead() and Worker.here() != here
    assert Worker.parse("anyone") is None and Worker.parse("[1, 2]") is None
    assert Worker(here.host, here.pid, "1", "t").dead()  # another process had the number before
    assert not Worker("another machine", here.pid, "1", "t").dead()
    child = subprocess.Popen(["sleep", "60"])
    other = Worker(here.host, child.pid, worker_id._started(child.pid) or "", "t")
    assert not other.dead()
    with made(path) as store:
        assert [claim.job.key for claim in (store.claim(str(other)), store.claim(str(here))) if claim] == [
            "job 0",
            "job 1",
        ]
        child.kill()
        until(lambda: [1] if other.dead() else [], 1)  # it has ended, but nobody has waited for it
        child.wait()
        assert other.dead()
        claim = store.claim("w")  # what it had is free at once
        assert claim and claim.job.key == "job 0" and store.progress().claimed == 2
        store.release("w")
        assert store.progress().claimed == 1


def stop(store: Store) -> None:
    raise KeyboardInterrupt


def test_three_losses_in_a_row_and_no_item_between(path: Path) -> None:
    with made(path, jobs_of(1, 9)) as store:

        def lose(times: int) -> None:
            for _ in range(times):
                assert store.claim("w")
                store.release("w", lost=True)

        lose(2)
        claim = store.claim("w")
        assert claim
        claim.commit("item 0")
        store.release("w")  # given back, not lost
        lose(2)
        with pytest.raises(KeyboardInterrupt):  # another run begins, which counts anew
            run(path, "runs_work:work", each=stop)
        lose(2)
        assert store.errors() == {}
        lose(1)
        assert store.errors()["job 0"].startswith("its worker ended 3 times") and store.claim("w") is None
        store.retry_failed()
        lose(2)
        run(path, "runs_work:work")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # from Python 3.12 on
def test_a_fork_does_not_use_the_connection(path: Path) -> None:
    with made(path) as store:
        child = os.fork()
        if child == 0:
            try:
                store.progress()
            except TracerError as error:
                os._exit(7 if "open it here again" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
