"""Runs on a Ray cluster of two nodes on this machine: the same rows, also when a worker is killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs_work import assert_same, jobs_of, light, made

from tracer.errors import TracerError
from tracer.runs import Counts, Store, run
from tracer.runs.cluster import Keeper

ray = pytest.importorskip("ray", reason='needs Ray: pip install "tracer-workbench[cluster]"')


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of two nodes with one CPU each, whose processes begin without torch."""
    from ray.cluster_utils import Cluster

    folder = light(tmp_path_factory.mktemp("cluster") / "light")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
        node |= {"include_log_monitor": False, "no_monitor": True}
        nodes = Cluster(initialize_head=True, head_node_args=node)
        try:
            nodes.add_node(**node)
            yield str(nodes.address)
        finally:
            nodes.shutdown()


def test_two_nodes_one_worker_killed(cluster: str, tmp_path: Path) -> None:
    for name in ("whole", "shared"):
        made(tmp_path / name, jobs_of(6, 8, pause=0.01)).close()
    run(tmp_path / "whole", "runs_work:work")
    given = {"fatal": "item 3", "once": str(tmp_path / "died")}
    seen: list[int] = []

    def look(store: Store) -> None:
        seen.append(store.progress().done)

    counts = run(tmp_path / "shared", "runs_work:work", workers=2, cluster=cluster, given=given, each=look)
    assert counts == Counts(48, 48, 0, 0, 0) and (tmp_path / "died").exists()
    assert seen == sorted(seen) and len(set(seen)) > 5
    assert_same(tmp_path / "whole", tmp_path / "shared")
    assert not ray.is_initialized()


def test_a_message_that_was_on_the_way_from_a_dismissed_worker_changes_nothing(tmp_path: Path) -> None:
    made(tmp_path / "a", jobs_of(2)).close()
    keeper = Keeper(str(tmp_path / "a"))
    (job, _), _ = keeper.call("first", "take", ("first",))
    keeper.dismiss(["first"])
    with Store.open(tmp_path / "a") as store:
        store.release("first")
        for name, arguments in (("take", ("first",)), ("commit", ("first", job.key, job.items[0], {}, {}))):
            result, error = keeper.call("first", name, arguments)
            assert result is None and "worker first is dismissed" in str(error)
        assert (store.progress().claimed, store.progress().done) == (0, 0)
        assert keeper.call("second", "take", ("second",))[0][0].key == job.key


def test_failures_come_back_and_ctrl_c_ends_it(cluster: str, tmp_path: Path) -> None:
    made(tmp_path / "a", jobs_of(5, pause=0.02)).close()

    def stop(store: Store) -> None:
        if store.errors():
            raise KeyboardInterrupt

    ray.init(address=cluster, log_to_driver=False, logging_level="ERROR")  # as a caller may have done before
    try:
        with pytest.raises(TracerError, match=r"^this cannot be made; repair it$"):
            run(tmp_path / "a", "runs_work:not_made", cluster=cluster)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "a", "runs_work:work", cluster=cluster, given={"raise": 1}, each=stop)
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    with Store.open(tmp_path / "a") as store:
        assert store.progress().claimed == 0 < store.progress().done < 22
        assert store.errors()["job 3"].startswith("RuntimeError: no such luck\n")
        store.retry_failed()
    assert run(tmp_path / "a", "runs_work:work") == Counts(25, 25, 0, 0, 0)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:10001"])
def test_where_no_cluster_is(tmp_path: Path, address: str) -> None:
    made(tmp_path / "a").close()
    with pytest.raises(TracerError, match=r"there is no Ray cluster at '127.0.0.1:1'|expected 'local', 'auto' or host"):
        run(tmp_path / "a", "runs_work:work", cluster=address)
