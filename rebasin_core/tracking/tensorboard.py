"""The tracker that writes event files for TensorBoard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.errors import PluginError
from rebasin_core.tracking.base import Tracker
from rebasin_core.tracking.events import flattened
from rebasin_core.tracking.tracking import AbstractRecorder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.utils.tensorboard import SummaryWriter

    from rebasin_core.tracking.events import Series, StageEvent, StageFailure, StudyInfo, StudySummary

_MAX_NAME = 80


@final
class TensorBoardTracker(Tracker):
    """Write one TensorBoard run for each stage: series as curves, options and results as hyperparameters and metrics.

    The event files are in ``folder/STUDY/KIND/STAGE``. Show them with ``tensorboard --logdir FOLDER``; the tab
    *HParams* compares the stages. Steps are integers: points t of a path are multiplied by 1000. Figures are not
    written, because TensorBoard does not show SVG. It needs the extra ``tensorboard``.

    Examples:
        >>> TensorBoardTracker(folder="board")
        TensorBoardTracker(folder=PosixPath('board'))
    """

    name: Literal["tensorboard"] = "tensorboard"

    folder: Path
    """Folder of all studies, the ``--logdir`` of TensorBoard."""

    @override
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        return _Recorder(self.folder / _file_name(study.name, study.id), study)


@final
class _Recorder(AbstractRecorder):
    def __init__(self, folder: Path, study: StudyInfo) -> None:
        self._folder = folder
        self._study = _writer(folder)
        self._study.add_text("study", _table({"id": study.id, "store": study.address, "version": study.version}))
        self._study.add_text("settings", _code(study.to_json()["settings"]))

    @override
    def stage_finished(self, event: StageEvent) -> None:
        with _writer(self._folder / event.kind / _file_name(event.label, event.id)) as writer:
            for name, series in event.series.items():
                _add_series(writer, f"{event.kind}/{name}", series)
            metrics = {f"{event.kind}/{name}": value for name, value in event.metrics.items()}
            metrics["stage/seconds"] = event.seconds
            _add_results(writer, {"kind": event.kind, **flattened(event.factors)}, metrics)
            about = {"label": event.label, "id": event.id, "device": event.device, "threads": str(event.threads)}
            writer.add_text("stage", _table(about))

    @override
    def stage_failed(self, event: StageFailure) -> None:
        with _writer(self._folder / event.kind / _file_name(event.label, event.id)) as writer:
            writer.add_text("error", _table({"error": event.error, "attempts": str(event.attempts)}))
            writer.add_text("log", _code(event.log))

    @override
    def study_finished(self, summary: StudySummary) -> None:
        counts = {name: str(value) for name, value in summary.to_json().items() if name != "files"}
        self._study.add_text("summary", _table(counts))

    @override
    def close(self) -> None:
        self._study.close()


def _writer(folder: Path) -> SummaryWriter:
    try:
        from torch.utils.tensorboard import SummaryWriter  # ruff: ignore[import-outside-top-level] - an extra
    except ImportError as error:
        message = (
            "the tracker `tensorboard` needs TensorBoard; install it with: pip install 'rebasin-core[tensorboard]'"
        )
        raise PluginError(message) from error
    return SummaryWriter(str(folder))


def _add_series(writer: SummaryWriter, name: str, series: Series) -> None:
    label = f"{name} at 1000 t" if series.axis == "t" else name
    for step, value in series.integer_points():
        writer.add_scalar(label, value, step)


def _add_results(
    writer: SummaryWriter, options: Mapping[str, bool | float | str | None], metrics: Mapping[str, float]
) -> None:
    """Write options and metrics of a stage, as `SummaryWriter.add_hparams` does, but without another folder."""
    from torch.utils.tensorboard.summary import hparams  # ruff: ignore[import-outside-top-level] - an extra

    for summary in hparams({name: str(v) if v is None else v for name, v in options.items()}, dict(metrics)):
        writer.file_writer.add_summary(summary)  # type: ignore[attr-defined] # declared as None
    for name, value in metrics.items():
        writer.add_scalar(name, value, 0)


def _file_name(label: str, identity: str) -> str:
    """Return a folder name that people can read, and that is unique."""
    return f"{re.sub(r'[^a-zA-Z0-9.+-]+', '_', label)[:_MAX_NAME]}-{identity[:8]}"


def _table(rows: Mapping[str, str]) -> str:
    """Return a table in Markdown."""
    return "\n".join([
        "| | |",
        "|---|---|",
        *(f"| {name} | {text.replace('|', '&#124;')} |" for name, text in rows.items()),
    ])


def _code(value: object) -> str:
    """Return a block of code in Markdown, which is indented."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2)
    return "\n".join(f"    {line}" for line in text.splitlines())
