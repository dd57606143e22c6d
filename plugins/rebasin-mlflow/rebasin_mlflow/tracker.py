"""The tracker that sends the results of a study to MLflow."""

from __future__ import annotations

import itertools
import os
import posixpath
import re
import time
from typing import TYPE_CHECKING, Literal, TypeVar, final
from urllib.parse import urlsplit

from pydantic import field_validator
from typing_extensions import override

from rebasin_core import Tracker
from rebasin_core.tracking import AbstractRecorder, flattened

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from mlflow import MlflowClient

    from rebasin_core.tracking import StageEvent, StageFailure, StudyInfo, StudySummary

T = TypeVar("T")

# Limits of MLflow.
_MAX_KEY = 250
_MAX_METRICS = 1000
_MAX_PARAMS = 100
_MAX_TAG = 5000


@final
class MLflowTracker(Tracker):
    """Send a study to MLflow: one run for the study, and in it one nested run for each stage.

    The nested runs have the options that the study varies as parameters, and results as metrics. The run of the study
    has figures of the barriers as artifacts. If a study is run again, its run continues. Credentials come from MLflow's
    environment variables.

    Examples:
        >>> MLflowTracker(tracking_uri="sqlite:///mlflow.db", experiment="widths")
        MLflowTracker(tracking_uri='sqlite:///mlflow.db', experiment='widths')
    """

    name: Literal["mlflow"] = "mlflow"

    tracking_uri: str | None = None
    """Address of the tracking server or database, such as ``http://localhost:5000`` or ``sqlite:///mlflow.db``; the
    default of MLflow (``MLFLOW_TRACKING_URI``) if None."""

    experiment: str | None = None
    """Name of the experiment, created if it does not exist; the name of the study if None."""

    artifacts: str | None = None
    """Address for files of a new experiment; the default of the server if None."""

    attach_files: bool = True
    """Whether figures are uploaded."""

    @field_validator("tracking_uri", "artifacts")
    @classmethod
    def _has_no_password(cls, address: str | None) -> str | None:
        # Options are stored in files.
        if address is not None and address.startswith("http") and urlsplit(address).password is not None:
            message = (
                "expected an address without a password, because options are stored in files; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )
            raise ValueError(message)
        return address

    @property
    @override
    def uses_files(self) -> bool:
        return self.attach_files

    @override
    def _open(self, study: StudyInfo) -> AbstractRecorder:
        # MLflow reports its use to its makers unless this is set; a study only sends to the given address.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient  # ruff: ignore[import-outside-top-level] - slow

        client = MlflowClient(tracking_uri=self.tracking_uri)
        return _Recorder(client, self._experiment(client, study), study, attach_files=self.attach_files)

    def _experiment(self, client: MlflowClient, study: StudyInfo) -> str:
        """Return the identity of the experiment."""
        name = self.experiment or study.name
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(client.create_experiment(name, artifact_location=self.artifacts))


@final
class _Recorder(AbstractRecorder):
    def __init__(self, client: MlflowClient, experiment: str, study: StudyInfo, *, attach_files: bool) -> None:
        self._client = client
        self._experiment = experiment
        self._attach_files = attach_files
        self._is_finished = False
        self._run = self._study_run(study)

    @override
    def stage_finished(self, event: StageEvent) -> None:
        run = self._stage_run(event, {"device": event.device, "threads": str(event.threads)})
        values = {**event.metrics, "seconds": event.seconds}
        points = [(name, value, 0) for name, value in values.items()]
        for name, series in event.series.items():
            label = f"{name} at 1000 t" if series.axis == "t" else name
            points += [(label, value, step) for step, value in series.integer_points()]
        self._log_metrics(run, points)
        self._attach(run, event.files)
        self._client.set_terminated(run, "FINISHED")

    @override
    def stage_failed(self, event: StageFailure) -> None:
        run = self._stage_run(event, {"error": event.error[:_MAX_TAG], "attempts": str(event.attempts)})
        if event.log and self._attach_files:
            self._client.log_text(run, event.log, "log.txt")
        self._client.set_terminated(run, "FAILED")

    @override
    def study_finished(self, summary: StudySummary) -> None:
        counts = {"computed": summary.computed, "reused": summary.reused, "failed": summary.failed}
        counts["blocked"] = summary.blocked
        durations = {"seconds": summary.seconds, "work_seconds": summary.work_seconds}
        self._log_metrics(self._run, [(name, value, 0) for name, value in {**counts, **durations}.items()])
        self._attach(self._run, summary.files)
        failed = "FAILED" if summary.failed else "FINISHED"
        self._client.set_terminated(self._run, "KILLED" if summary.interrupted else failed)
        self._is_finished = True

    @override
    def close(self) -> None:
        if not self._is_finished:
            self._client.set_terminated(self._run, "KILLED")

    def _study_run(self, study: StudyInfo) -> str:
        """Return the run of the study: the existing one if it was run before."""
        query = f"tags.`rebasin.study` = '{study.id}' and tags.`rebasin.kind` = 'study'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        if found:
            run = str(found[0].info.run_id)
            self._client.update_run(run, status="RUNNING")
            return run
        tags = {"rebasin.study": study.id, "rebasin.kind": "study", "rebasin.store": study.address}
        created = self._client.create_run(
            self._experiment, run_name=study.name, tags={**tags, "rebasin.version": study.version}
        )
        run = str(created.info.run_id)
        self._log_params(run, study.settings)
        return run

    def _stage_run(self, event: StageEvent | StageFailure, tags: Mapping[str, str]) -> str:
        """Return a new nested run with the parameters of a stage."""
        created = self._client.create_run(
            self._experiment,
            start_time=round(1000 * (time.time() - event.seconds)),
            run_name=event.label,
            tags={
                "mlflow.parentRunId": self._run,
                "rebasin.kind": event.kind,
                "rebasin.stage": event.id,
                **{f"rebasin.{name}": text for name, text in tags.items()},
            },
        )
        run = str(created.info.run_id)
        self._log_params(run, {"kind": event.kind, **event.factors})
        return run

    def _attach(self, run: str, files: Mapping[str, Path]) -> None:
        for path in files.values() if self._attach_files else ():
            if path.is_file():
                self._client.log_artifact(run, str(path))

    def _log_params(self, run: str, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param  # ruff: ignore[import-outside-top-level] - slow

        params = [Param(_key(name), str(value)) for name, value in flattened(values).items()]
        for batch in _batches(params, _MAX_PARAMS):
            self._client.log_batch(run, params=batch)

    def _log_metrics(self, run: str, points: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric  # ruff: ignore[import-outside-top-level] - slow

        now = round(1000 * time.time())
        metrics = [Metric(_key(name), float(value), now, step) for name, value, step in points]
        for batch in _batches(metrics, _MAX_METRICS):
            self._client.log_batch(run, metrics=batch)


def _batches(items: Sequence[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _key(name: str) -> str:
    """Return a name that MLflow accepts for parameters and metrics."""
    found = re.sub(r"[^\w.\- :/]", "_", name)[:_MAX_KEY]
    # Names must be normal relative paths.
    is_path = found == posixpath.normpath(found) and not found.startswith(("..", "/")) and found != "."
    return found if is_path else found.replace("/", "_").replace(".", "_") or "_"
