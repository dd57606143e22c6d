"""The division of a machine among workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rebasin_core.executors import resources
from rebasin_core.executors.resources import Share, shares, usable_cpus, visible_gpus


@pytest.fixture
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "usable_cpus", lambda: 16)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


@pytest.mark.usefixtures("sixteen_cpus")
@pytest.mark.parametrize(
    ("workers", "threads", "expected"),
    [
        (None, None, [Share(1)] * 16),
        (None, 4, [Share(4)] * 4),
        (3, None, [Share(5)] * 3),
        (2, 3, [Share(3)] * 2),
        (None, 40, [Share(40)]),
        (20, None, [Share(1)] * 20),
    ],
)
def test_cpus_are_divided_equally(workers: int | None, threads: int | None, expected: list[Share]) -> None:
    assert shares(workers, threads) == expected


@pytest.mark.usefixtures("sixteen_cpus")
def test_one_worker_uses_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert shares(None, None) == [Share(5, "0"), Share(5, "1"), Share(5, "2")]
    assert shares(2, 1) == [Share(1, "0"), Share(1, "1")]


def test_visible_gpus_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa,GPU-bb,7")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert visible_gpus() == ["GPU-aa", "GPU-bb"]


def test_environment_sets_threads_before_libraries_are_loaded() -> None:
    assert Share(3).environment() == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3", "OPENBLAS_NUM_THREADS": "3"}
    assert Share(1, "4").environment()["CUDA_VISIBLE_DEVICES"] == "4"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_cpus_are_those_of_the_affinity() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("content", "expected"), [("300000 100000", 3), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8)]
)
def test_limit_of_a_container_is_respected(
    content: str, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(resources, "_CGROUP_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cpus() == expected
