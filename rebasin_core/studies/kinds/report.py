"""Stage of a run's report: figures, and one HTML page."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from typing_extensions import override

from rebasin_core.report.page import write_report
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.view import write_results
from rebasin_core.tensors.files import write_json

if TYPE_CHECKING:
    from pathlib import Path


def environment() -> dict[str, str]:
    """Return versions and the machine type, and the number of threads, as strings."""
    return {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
        # Sums are split among threads, so their number changes the last digits of results.
        "threads": str(torch.get_num_threads()),
    }


@final
class ReportWork(Work):
    """Draws the figures of a run, and writes its report."""

    kind: Literal["report"] = "report"

    config: dict[str, Any]
    """Configuration of the run, as plain JSON."""

    @override
    def compute(self, context: Context) -> Product:
        folder = context.folder
        write_json(
            folder / "run.json", {"config": self.config, "code": dict(context.stage.code), "about": environment()}
        )
        for role, _ in context.stage.reads:
            write_results(folder, role, context.artifact(role), context.workspace.store)
        files = [write_report(folder), *_figures(folder)]
        return Product({}, {path.relative_to(folder).as_posix(): path for path in files})


def _figures(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "figures").rglob("*") if path.is_file())
