"""Executor that runs tasks as jobs of Slurm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import override

import rebasin_core as rc

if TYPE_CHECKING:
    from concurrent import futures


@final
class SlurmExecutor(rc.Executor):
    """Runs tasks as jobs of Slurm, or as processes of this machine for trials, through submitit.

    Tasks that are submitted within a second form one job array. A job that is preempted and requeued starts its task
    again. A job that fails, is killed or exceeds its time raises a `rebasin_core.errors.WorkerLostError`. Jobs stop
    themselves about two minutes after the process that submitted them, so leave that process running, for example in
    tmux on the login node.

    Examples:
        >>> SlurmExecutor(partition="gpu", gpus=1, minutes=240, folder="/scratch/jobs").slots
        16
    """

    name: Literal["slurm"] = "slurm"

    cluster: Literal["slurm", "local"] = "slurm"
    """``local`` runs each job as a process of this machine, to try a study without Slurm."""

    folder: Path = Path("slurm-jobs")
    """Folder for scripts, logs and results of jobs, on a file system that all nodes share. Only you may write to it."""

    partition: str | None = None
    """Partition of Slurm; None for its default."""

    account: str | None = None
    """Account of Slurm; None for the default of the user."""

    minutes: PositiveInt = 60
    """Time limit of a job. Choose it well above `task_seconds` and the longest stage."""

    cpus: PositiveInt = 1
    """CPUs of a job, which are the threads of its task."""

    gpus: NonNegativeInt = 0
    """GPUs of a job."""

    memory_gb: PositiveFloat | None = None
    """Memory of a job in GB; None for the default of the partition."""

    jobs: PositiveInt = 16
    """Number of jobs to keep submitted, and of the jobs of one array that run at the same time."""

    parameters: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Other options of ``sbatch`` by their long names, such as ``{"constraint": "a100", "qos": "long"}``."""

    task_seconds: NonNegativeFloat = 600.0
    """Target duration of a job in seconds. Short stages are combined in one job; 0 for one stage per job."""

    @property
    @override
    def slots(self) -> int:
        return self.jobs

    @override
    def _open(self) -> futures.Executor:
        from rebasin_slurm.pool import JobPool  # ruff: ignore[import-outside-top-level] - imports submitit

        return JobPool(self)
