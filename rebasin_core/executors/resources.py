"""CPUs and GPUs of this machine, and their division among workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
# Variables that set the number of threads of OpenMP, MKL and OpenBLAS, which read them when they are loaded.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use: its affinity, at most the limit of its container.

    Returns:
        The number, at least 1.
    """
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    count = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    try:
        quota, period = _CGROUP_LIMIT.read_text(encoding="ascii").split()
        limit = int(quota) / int(period)
    except (OSError, ValueError):  # no control group, or no limit ("max")
        return count
    return max(1, min(count, int(limit)))


def visible_gpus() -> Sequence[str]:
    """Return the GPUs that this process may use, as entries of ``CUDA_VISIBLE_DEVICES``.

    Returns:
        Indices or identifiers, in the order of ``cuda:0``, ``cuda:1``, ...
    """
    count = torch.cuda.device_count()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(index) for index in range(count)]
    return [entry.strip() for entry in given.split(",")][:count]


@final
@dataclass(frozen=True, slots=True)
class Share:
    """The part of a machine that one worker uses.

    Attributes:
        threads: Number of threads.
        gpu: Entry of ``CUDA_VISIBLE_DEVICES``; None if the machine has no GPU.
    """

    threads: int
    gpu: str | None = None

    def environment(self) -> Mapping[str, str]:
        """Return the environment variables that restrict a process to this part."""
        found = dict.fromkeys(_THREAD_VARIABLES, str(self.threads))
        return found if self.gpu is None else {**found, "CUDA_VISIBLE_DEVICES": self.gpu}


def shares(workers: int | None, threads: int | None) -> Sequence[Share]:
    """Divide this machine among workers.

    Args:
        workers: Number of workers; None for one per GPU or, without GPUs, the number of CPUs divided by the threads.
        threads: Threads of each worker; None to divide the CPUs equally.

    Returns:
        The part of each worker. GPUs are assigned in turn.
    """
    cpus = usable_cpus()
    gpus = visible_gpus()
    count = workers or len(gpus) or max(1, cpus // (threads or 1))
    each = threads or max(1, cpus // count)
    return [Share(each, gpus[index % len(gpus)] if gpus else None) for index in range(count)]
