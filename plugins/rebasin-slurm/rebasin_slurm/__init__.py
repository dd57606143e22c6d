"""Executor of rebasin_core for Slurm, through submitit."""

from rebasin_slurm.executor import SlurmExecutor

__all__ = ["SlurmExecutor"]
