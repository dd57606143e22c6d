"""Studies: whole runs, from training to the report, resumable stage by stage."""

from rebasin_core.studies.execution import RunResult, load_run, run

__all__ = [
    "RunResult",
    "load_run",
    "run",
]
