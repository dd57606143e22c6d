"""Runs: train or load, align and evaluate, in resumable stages."""

from rebasin_core.studies.run import RunResult, load_run, run

__all__ = [
    "RunResult",
    "load_run",
    "run",
]
