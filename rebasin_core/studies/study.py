"""A study: many trainings, matches and barriers, planned from one file and computed where its executor runs them."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, final

from rebasin_core.config.document import Document
from rebasin_core.config.reading import read_config
from rebasin_core.config.run import RunConfig
from rebasin_core.config.study import StudyConfig
from rebasin_core.errors import DamagedArtifactError, MissingArtifactError, RebasinError, TrackingWarning
from rebasin_core.plugin.discovery import CORE
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.studies.engine.display import stage_display
from rebasin_core.studies.engine.estimates import Estimates
from rebasin_core.studies.engine.observer import Failure, Observer, Outcome
from rebasin_core.studies.engine.preparation import Preparation
from rebasin_core.studies.engine.scheduler import Scheduler, Settings
from rebasin_core.studies.engine.tracking import TrackingObserver
from rebasin_core.studies.kinds.workspace import Workspace
from rebasin_core.studies.planning.contents import Contents
from rebasin_core.studies.planning.study import StudyPlan
from rebasin_core.studies.results.figures import write_figures
from rebasin_core.studies.results.reading import read_results
from rebasin_core.studies.store import Store
from rebasin_core.studies.store.layout import root_of
from rebasin_core.tensors.arguments import raise_wrong_type
from rebasin_core.tensors.digests import digest_of_json
from rebasin_core.tracking.base import open_trackers
from rebasin_core.tracking.events import StudyInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rebasin_core.executors.base import Executor
    from rebasin_core.studies.stage import Stage

STORE_VARIABLE = "REBASIN_STORE"
"""Environment variable with the address of the default store."""

DEFAULT_STORE = "rebasin-store"
"""Folder of the default store if the environment variable is not set."""

# Options that do not change any result.
_CIRCUMSTANCES = ("executor", "trackers", "timeout", "retries", "store")


@final
@dataclass(frozen=True, slots=True)
class Forecast:
    """The stages to be computed, and their expected duration.

    Attributes:
        total: Number of stages of each kind.
        needed: Number of stages of each kind that are to be computed.
        seconds: Expected sum of the durations of the stages to be computed, without those of unknown duration.
        unknown: Kinds of stages whose duration is unknown, since none is stored.
        workers: Number of tasks that run at the same time.
    """

    total: Mapping[str, int]
    needed: Mapping[str, int]
    seconds: float
    unknown: tuple[str, ...]
    workers: int


@final
class Study:
    """A study with its plan and its store.

    Args:
        config: The configuration.
        store: The store or its address; if None, that of the configuration, of the environment variable
            ``REBASIN_STORE``, or ``rebasin-store``.
        name: Name of the study, such as the path of its file. The store keeps the results of the last plan of each
            name.
        only: Patterns of the labels of cells, such as ``*width=64*``; all cells if empty.
        registry: Registry of components; all installed plugins if None.

    Attributes:
        config: The configuration.
        name: Name of the study.
        plan: The stages.
        store: The store.

    Raises:
        RebasinError: If a cell is invalid, or a dataset or file cannot be read.
    """

    def __init__(
        self,
        config: StudyConfig,
        store: Store | Path | str | None = None,
        *,
        name: str = "study",
        only: Sequence[str] = (),
        registry: Registry | None = None,
    ) -> None:
        if not isinstance(config, StudyConfig):
            raise_wrong_type(config, "a `StudyConfig`", "`load_study` reads one from a file")
        self.config = config
        self.name = name
        self._registry = registry or default_registry()
        self._contents = Contents(self._registry)
        self.plan = StudyPlan(config, self._contents, only=only)
        if store is None:
            store = config.store or os.environ.get(STORE_VARIABLE, DEFAULT_STORE)
        self.store = store if isinstance(store, Store) else Store.open(store)

    def forecast(self, executor: Executor | None = None) -> Forecast:
        """Return the stages to be computed, and their expected duration.

        Args:
            executor: The executor; that of the configuration if None.

        Returns:
            Numbers of stages, and the expected duration.

        Raises:
            StorageError: If the store cannot be read.
        """
        stored, _ = self._survey()
        needed = self.plan.graph.needed(self.plan.targets, stored)
        expected = _seconds(self.store, stored, needed)
        unknown = {stage.kind for stage in needed if stage.id not in expected}
        workers = (executor or self.config.executor).slots
        counts = self.plan.graph.counts(needed)
        return Forecast(self.plan.graph.counts(), counts, sum(expected.values()), tuple(sorted(unknown)), workers)

    def run(
        self,
        *,
        executor: Executor | None = None,
        device: str | None = None,
        retry_failed: bool = False,
        progress: bool = False,
        observers: Sequence[Observer] = (),
    ) -> Outcome:
        """Compute the remaining stages of the study.

        The same call finishes a study that was interrupted, whose driver or workers were killed, or some of whose
        stages failed. Several processes, also on several machines, can run one study with one store: each computes
        stages that no other one computes.

        Args:
            executor: Where stages are computed; as in the configuration if None.
            device: Device of the workers, as in the configuration if None.
            retry_failed: Whether to try stages again that failed in an earlier call for a reason that is expected to
                persist, such as a diverged training.
            progress: Whether to show progress: a bar in a terminal, otherwise a line for each stage.
            observers: Receive the events of the computation.

        Returns:
            The computed stages and the failed ones.

        Raises:
            RebasinError: If a network, a file to be loaded, or training options are invalid: before any computation.
            StorageError: If the store cannot be written.
            KeyboardInterrupt: If the call is interrupted.
        """
        stored, damaged = self._survey()
        needed = self.plan.graph.needed(self.plan.targets, stored)
        preparation = self._prepared(stored, needed)
        self.store.write_root(root_of("study", self.name), [stage.id for stage in self.plan.graph])
        stored |= preparation.write()
        self._remove(damaged)
        failures = self._failures()
        settings = Settings(
            device=device or self.config.base.device.partition(":")[0],
            retries=self.config.retries,
            timeout=self.config.timeout,
            known_failures={} if retry_failed else {i: f for i, f in failures.items() if f.is_permanent},
            recorded_failures=failures.keys(),
            seconds=_seconds(self.store, stored, needed),
        )
        with ExitStack() as stack:
            watching = [*observers, *([stage_display()] if progress else [])]
            if self.config.trackers:
                # Entered first, and therefore deleted after the trackers are closed.
                folder = Path(stack.enter_context(TemporaryDirectory(prefix="rebasin-")))
                tracking = stack.enter_context(open_trackers(self.config.trackers, self._info(needed)))
                watching.append(TrackingObserver(tracking, self._factors(), lambda: self._figures(folder)))
            chosen = executor or self.config.executor
            return Scheduler(self.plan.graph, self.store, chosen, settings, watching).run(self.plan.targets, stored)

    def _prepared(self, stored: set[str], needed: Sequence[Stage]) -> Preparation:
        """Check the networks, files and training options of all cells with stages to be computed."""
        # On the CPU, since the device of the workers may not exist on this machine.
        workspace = Workspace(self.store, registry=self._registry, device="cpu")
        preparation = Preparation(workspace, self._contents, stored)
        open_ids = {stage.id for stage in needed}
        unfinished = sorted({result.cell for result in self.plan.results if result.stage in open_ids})
        posteriors: dict[int, dict[str, Stage]] = {index: {} for index in unfinished}
        for posterior in self.plan.posteriors:
            origin = self.plan.cells[posterior.cell][1].origins[posterior.stage]
            if origin.id in open_ids:
                posteriors[posterior.cell][origin.id] = origin
        for index, stages in posteriors.items():
            preparation.check(self.plan.cells[index][1], list(stages.values()))
        return preparation

    def _survey(self) -> tuple[set[str], set[str]]:
        """Return the identities of intact stored results, and those of requested results whose records are damaged."""
        stored = self.store.ids()
        if self.store.storage.connections > 1:  # reading is slow, and object stores verify their content
            return stored, set()
        requested = stored.intersection(self.plan.targets)
        damaged = requested.difference(self.store.read_many(requested))
        return stored - damaged, damaged

    def _remove(self, damaged: Collection[str]) -> None:
        """Remove damaged results, unless another command has replaced them since."""
        for identity in damaged:
            try:
                self.store.read(identity)
            except (DamagedArtifactError, MissingArtifactError):
                self.store.remove(identity)

    def _failures(self) -> dict[str, Failure]:
        """Return the failures of stages of this study in earlier calls."""
        found: dict[str, Failure] = {}
        for identity, document in self.store.read_failures().items():
            if identity in self.plan.graph and isinstance(document, Mapping):
                error, message = str(document.get("error")), str(document.get("message"))
                is_permanent = document.get("permanent") is True
                found[identity] = Failure(self.plan.graph[identity], error, message, is_permanent=is_permanent)
        return found

    def _info(self, needed: Sequence[Stage]) -> StudyInfo:
        graph = self.plan.graph
        settings: dict[str, Any] = json.loads(self.config.canonical_json())
        identity = digest_of_json({name: value for name, value in settings.items() if name not in _CIRCUMSTANCES})
        reused = len(graph) - len(needed)
        name = Path(self.name).stem
        return StudyInfo(identity, name, settings, graph.counts(), reused, self.store.address, version(CORE))

    def _figures(self, folder: Path) -> dict[str, Path]:
        """Draw the figures of the results if a tracker uses them. Results are stored, so a problem is a warning."""
        if not any(tracker.uses_files for tracker in self.config.trackers):
            return {}
        try:
            return {path.name: path for path in write_figures(read_results(self), folder)}
        except RebasinError as error:
            message = f"no figures are sent to trackers: {error}"
            warnings.warn(message, TrackingWarning, stacklevel=2)
            return {}

    def _factors(self) -> dict[str, dict[str, object]]:
        """Return the factors of the stages: the levels of the first cell that contains them, and the pair."""
        found: dict[str, dict[str, object]] = {}
        for posterior in self.plan.posteriors:
            cell, plan = self.plan.cells[posterior.cell]
            for identity in (posterior.stage, plan.origins[posterior.stage].id):
                found.setdefault(identity, {**cell.factors, "posterior": posterior.member})
        for scores in self.plan.scores:
            cell = self.plan.cells[scores.cell][0]
            found.setdefault(scores.stage, {**cell.factors, "posterior": scores.member, "split": scores.split})
        for curve in self.plan.curves:
            cell = self.plan.cells[curve.cell][0]
            pair = {"reference": curve.reference, "candidate": curve.candidate, "alignment": curve.alignment}
            found.setdefault(curve.match, {**cell.factors, **pair})
            found.setdefault(curve.stage, {**cell.factors, **pair, "split": curve.split, "barrier": curve.barrier})
        return found


def load_study(path: Path | str, *, registry: Registry | None = None) -> StudyConfig:
    """Read a study file.

    Args:
        path: A YAML or JSON file. Its ``base`` is the content of a run file, or the path of one relative to this file.
        registry: Registry of components; all installed plugins if None.

    Returns:
        The configuration.

    Raises:
        ConfigError: If the file or the base is invalid; lists all problems with their lines and the nearest valid
            names.
    """
    lookup = (registry or default_registry()).strategy_class
    document = Document.read(path)
    content = document.content
    if isinstance(content, dict) and isinstance(content.get("base"), str):
        base = Document.read(Path(path).parent / content["base"])
        content = {**content, "base": read_config(RunConfig, base, lookup)}
    return read_config(StudyConfig, Document(document.source, content, document.lines), lookup)


def _seconds(store: Store, stored: set[str], needed: Sequence[Stage]) -> dict[str, float]:
    """Return the expected durations of stages by identity, as far as similar ones are stored."""
    if not needed or not stored:
        return {}
    estimates = Estimates(store, stored)
    expected = {stage.id: estimates.seconds(stage) for stage in needed}
    return {identity: seconds for identity, seconds in expected.items() if seconds is not None}
