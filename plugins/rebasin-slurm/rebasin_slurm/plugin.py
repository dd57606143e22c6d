"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_slurm.executor import SlurmExecutor


@hookimpl
def rebasin_executors() -> Sequence[type[SlurmExecutor]]:
    """Return the executor."""
    from rebasin_slurm.executor import SlurmExecutor

    return [SlurmExecutor]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return an executor that runs jobs as processes of this machine."""
    from rebasin_slurm.executor import SlurmExecutor

    return [SlurmExecutor(cluster="local", jobs=2, folder=folder / "jobs")] if kind is SlurmExecutor else None
