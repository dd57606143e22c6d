"""The tracker that sends the results of a study to Weights & Biases."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final

from typing_extensions import override

from rebasin_core import Tracker
from rebasin_core.errors import PluginError
from rebasin_core.tracking import AbstractRecorder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wandb import Run

    from rebasin_core.tracking import StageEvent, StageFailure, StudyInfo, StudySummary

# Limits of Weights & Biases.
_MAX_NAME = 128
_LONGEST_ERROR = 5000
_IDENTITY = 24


@final
class WandbTracker(Tracker):
    """Send a study to Weights & Biases: one run for each stage and one for the study, in one group.

    The group is the study, the job type is the kind of the stage, the configuration has the options that the study
    varies, and the summary has the results. Only these are sent: no source code, environment, console output or system
    statistics. Log in once with ``wandb login``.

    Examples:
        >>> WandbTracker(project="widths", mode="offline")
        WandbTracker(project='widths', mode='offline')
    """

    name: Literal["wandb"] = "wandb"

    project: str | None = None
    """Name of the project; the name of the study if None."""

    entity: str | None = None
    """User or team; the default of the account if None."""

    mode: Literal["online", "offline"] = "online"
    """``offline`` only writes files below `folder`; ``wandb sync`` sends them later."""

    folder: Path | None = None
    """Folder in which the client creates the folder ``wandb`` for its files; the working directory if None."""

    attach_files: bool = True
    """Whether figures are uploaded."""

    @property
    @override
    def uses_files(self) -> bool:
        return self.attach_files

    @override
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        # Otherwise the client reports its own errors to its makers; a study only sends its results.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb  # ruff: ignore[import-outside-top-level] - slow

        if self.mode == "online" and wandb.api.api_key is None:
            # The client would ask for a key on the terminal.
            message = "not logged in to Weights & Biases; run `wandb login`, or set the option mode='offline'"
            raise PluginError(message)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
        return _Recorder(self, study)


@final
class _Recorder(AbstractRecorder):
    def __init__(self, tracker: WandbTracker, study: StudyInfo) -> None:
        self._tracker = tracker
        self._group = f"{study.name[: _MAX_NAME - 9]}-{study.id[:8]}"
        self._project = tracker.project or study.name
        settings = {"settings": study.to_json()["settings"], "store": study.address, "version": study.version}
        self._study = self._start("study", study.name, study.id, settings)

    @override
    def stage_finished(self, event: StageEvent) -> None:
        found = event.to_json()
        about = {name: found[name] for name in ("id", "device", "threads")}
        run = self._start(event.kind, event.label, event.id, {**event.factors, "stage": about})
        for name, series in event.series.items():
            # Each series has its own horizontal axis, so that a curve over t and one over epochs do not collide.
            axis = f"{name}/{series.axis}"
            run.define_metric(name, step_metric=axis)
            for step, value in series.points():
                run.log({axis: step, name: value})
        run.summary.update({**event.metrics, "seconds": event.seconds})
        self._attach(run, event.files)
        run.finish()

    @override
    def stage_failed(self, event: StageFailure) -> None:
        run = self._start(event.kind, event.label, event.id, {**event.factors, "stage": {"id": event.id}})
        run.summary.update({"error": event.error[:_LONGEST_ERROR], "attempts": event.attempts, "log": event.log})
        run.finish(exit_code=1)

    @override
    def study_finished(self, summary: StudySummary) -> None:
        self._study.summary.update({name: value for name, value in summary.to_json().items() if name != "files"})
        self._attach(self._study, summary.files)

    @override
    def close(self) -> None:
        self._study.finish()

    def _attach(self, run: Run, files: Mapping[str, Path]) -> None:
        for name, path in files.items() if self._tracker.attach_files else ():
            if path.is_file():
                _attach(run, name, path)

    def _start(self, kind: str, label: str, identity: str, config: dict[str, Any]) -> Run:
        """Return a new run, or the existing run of the same study or stage."""
        import wandb  # ruff: ignore[import-outside-top-level] - slow

        tracker = self._tracker
        return wandb.init(
            project=self._project,
            entity=tracker.entity,
            mode=tracker.mode,
            dir=None if tracker.folder is None else str(tracker.folder),
            id=f"{kind}-{identity[:_IDENTITY]}",
            name=label[:_MAX_NAME],
            group=self._group,
            job_type=kind,
            config=config,
            resume="allow" if tracker.mode == "online" else None,  # offline runs are merged when they are sent
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_machine_info=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )


def _attach(run: Run, name: str, path: Path) -> None:
    """Show a figure in a run: the client only shows SVG inside HTML."""
    import wandb  # ruff: ignore[import-outside-top-level] - slow

    if path.suffix in {".svg", ".html"}:
        run.log({name: wandb.Html(path.read_text(encoding="utf-8"))})
    elif path.suffix in {".png", ".jpg"}:
        run.log({name: wandb.Image(str(path))})
    else:
        run.save(str(path), base_path=str(path.parent), policy="now")
