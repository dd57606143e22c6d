"""Runs: train or load, align and evaluate, in resumable stages."""

from rebasin_core.studies.execution import RunResult, load_run, run

__all__ = [
    "RunResult",
    "load_run",
    "run",
]
