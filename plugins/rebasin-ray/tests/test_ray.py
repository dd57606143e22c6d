"""Executors on a Ray cluster of three nodes on the loopback address."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

import rebasin_core as rc
from rebasin_core.errors import ConfigError, WorkerLostError
from rebasin_core.testing import Check, conformance_checks

pytest.importorskip("ray")
pytest.importorskip("rebasin_ray")

import ray
from ray.cluster_utils import Cluster
from rebasin_ray import RayExecutor

sys.path.insert(0, str(Path(__file__).parent))
import ray_tasks

ray.cloudpickle.register_pickle_by_value(ray_tasks)  # processes of Ray do not have this folder in their path

LOOPBACK = "127.0.0.2"  # Ray replaces 127.0.0.1 by the address of this machine in its network


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    options = {"num_cpus": 1, "node_ip_address": LOOPBACK, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=options)
    del options["include_dashboard"]
    for _ in range(2):
        started.add_node(**options)
    ray.init(address=started.address, log_to_driver=False, _node_ip_address=LOOPBACK)
    started.wait_for_nodes()
    yield started
    ray.shutdown()
    started.shutdown()


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("check", conformance_checks("rebasin-ray"), ids=str)
def test_law_holds(check: Check) -> None:
    check.run()


@pytest.mark.usefixtures("cluster")
def test_options_state_the_resources_of_a_task() -> None:
    assert rc.default_registry().build("executor", {"name": "ray", "num_cpus": 0.5}).slots == 6
    assert RayExecutor().slots == 3
    assert ray.is_initialized()  # the connection of the caller remains open
    with RayExecutor(num_cpus=1).open() as pool:
        assert pool.submit(ray_tasks.threads).result(60) == 1
    with pytest.raises(ConfigError, match="has 1 CPUs and 1 GPUs for a task"):
        RayExecutor(num_gpus=1).open()


def test_a_killed_node_loses_its_task_only(cluster: Any, tmp_path: Path) -> None:
    extra = cluster.add_node(num_cpus=1, node_ip_address=LOOPBACK)
    cluster.wait_for_nodes()
    with RayExecutor().open() as pool:
        running = [pool.submit(ray_tasks.announce_and_wait, str(tmp_path), str(tmp_path / "stop")) for _ in range(4)]
        deadline = time.monotonic() + 60
        while len(nodes := {path.read_text() for path in tmp_path.glob("*.node")}) < 4:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert extra.node_id in nodes
        cluster.remove_node(extra, allow_graceful=False)
        lost = futures.wait(running, 60, return_when=futures.FIRST_COMPLETED).done
        assert len(lost) == 1
        with pytest.raises(WorkerLostError, match="a process or node of Ray failed"):
            lost.pop().result()
        (tmp_path / "stop").touch()
        others = [future.result(60) for future in running if future.exception(60) is None]
        assert set(others) == nodes - {extra.node_id}
        assert pool.submit(ray_tasks.node_id).result(60) in others
