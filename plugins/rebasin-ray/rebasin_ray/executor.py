"""Executor that runs tasks on a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import override

import rebasin_core as rc

if TYPE_CHECKING:
    from concurrent import futures


@final
class RayExecutor(rc.Executor):
    """Runs tasks on a Ray cluster, or in a local Ray on this machine.

    Ray must be able to import `rebasin_core` and its plugins, in the same versions, on all nodes. Every node must reach
    the store of the study. The number of threads of a task is that of its CPUs, at least 1. If its process or node
    fails, a task raises a `rebasin_core.errors.WorkerLostError`. Cancelling a running task kills its process.

    If the calling process is connected to Ray already, that connection is used and remains open.

    Examples:
        >>> RayExecutor(address="auto", num_cpus=4, num_gpus=0.5)
        RayExecutor(address='auto', num_cpus=4.0, num_gpus=0.5)
    """

    name: Literal["ray"] = "ray"

    address: str | None = None
    """``auto`` for the running cluster of this machine, ``ray://host:10001`` for a remote one, None for a local Ray."""

    num_cpus: PositiveFloat = 1.0
    """CPUs of each task."""

    num_gpus: NonNegativeFloat = 0.0
    """GPUs of each task; 0.25 lets four tasks share one GPU."""

    max_retries: NonNegativeInt = 0
    """Number of times that Ray repeats a task whose process or node failed. A study repeats it, too."""

    tasks: PositiveInt | None = None
    """Number of tasks to keep submitted. None for the number that fits the present nodes of the cluster."""

    @property
    @override
    def slots(self) -> int:
        from rebasin_ray.pool import fitting_tasks, opened_ray  # ruff: ignore[import-outside-top-level] - imports Ray

        if self.tasks is not None:
            return self.tasks
        with opened_ray(self):
            return max(1, fitting_tasks(self))

    @override
    def _open(self) -> futures.Executor:
        from rebasin_ray.pool import RayPool  # ruff: ignore[import-outside-top-level] - imports Ray

        return RayPool(self)
