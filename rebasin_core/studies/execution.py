"""A run: train or load two posteriors, match them, and estimate barriers."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from rebasin_core.config.document import Document
from rebasin_core.config.reading import read_config
from rebasin_core.config.run import RunConfig
from rebasin_core.errors import DamagedArtifactError, MissingArtifactError, StorageError
from rebasin_core.executors.in_process import InProcessExecutor
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.studies.engine.display import StageLines
from rebasin_core.studies.engine.preparation import Preparation
from rebasin_core.studies.engine.scheduler import Scheduler, Settings
from rebasin_core.studies.engine.worker import Runner
from rebasin_core.studies.folder import STORE, RunFolder
from rebasin_core.studies.kinds.curve import curve_in
from rebasin_core.studies.kinds.report import environment
from rebasin_core.studies.kinds.workspace import Workspace
from rebasin_core.studies.planning.contents import Contents
from rebasin_core.studies.planning.run import RunPlan
from rebasin_core.studies.store import Store
from rebasin_core.studies.store.layout import root_of
from rebasin_core.tensors.arguments import raise_wrong_type, require_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.config.run import Split
    from rebasin_core.studies.store import Artifact


@final
@dataclass(frozen=True, slots=True)
class RunResult:
    """Results of a run.

    Attributes:
        folder: The output folder.
        curves: Loss curves by split and label: ``unaligned``, and the name of each matcher.
        distances: 2-Wasserstein distance between reference and candidate by label; None if there is no closed form.
        matches: Results of each matcher by name: objective, outcome and more, as in its JSON file.
        device: Device of the computation.
        means: Loss curves between the means of the same posteriors (single networks), by split and label, for
            comparison. Empty in runs of single networks.
        computed: Labels of the stages that were computed now; the results of the others were stored before.
    """

    folder: Path
    curves: Mapping[Split, Mapping[str, LossCurve]]
    distances: Mapping[str, float | None]
    matches: Mapping[str, Mapping[str, Any]]
    device: str
    means: Mapping[Split, Mapping[str, LossCurve]] = field(default_factory=dict)
    computed: tuple[str, ...] = ()


def load_run(path: Path | str, *, registry: Registry | None = None) -> RunConfig:
    """Read a run file.

    Args:
        path: A YAML or JSON file.
        registry: Registry of components; all installed plugins if None.

    Returns:
        The configuration.

    Raises:
        ConfigError: If the file is invalid; lists all problems with their lines and the nearest valid names.
    """
    return read_config(RunConfig, Document.read(path), (registry or default_registry()).strategy_class)


def run(
    config: RunConfig,
    output: Path | str,
    *,
    store: Store | Path | str | None = None,
    registry: Registry | None = None,
    report: bool = False,
    progress: bool = False,
) -> RunResult:
    """Train or load two posteriors, align them with every matcher, and estimate the barriers before and after.

    A run is a plan of stages. The result of each stage is stored under its identity: a digest of its options, of the
    results and file contents that it reads, and of the code. If the same run is started again, no stage is computed; if
    an option, the dataset, a loaded file or the code has changed, exactly the stages that depend on it are. Training
    that was interrupted resumes from its last checkpoint.

    The output folder contains ``run.json`` (configuration, inputs, versions and identities), ``posteriors/``,
    ``permutations/``, ``similarities/``, ``curves/``, ``scores/``, ``stages/`` and ``summary.json``.

    Args:
        config: The configuration.
        output: The output folder: new, empty, or of a run. Files of stages that are not part of this run are removed
            from it; their results remain in the store.
        store: The store, or its address: a folder, or an address of fsspec such as ``s3://bucket/name``. Runs and
            studies with one store share results. If None, ``store`` in the output folder.
        registry: Registry of components; all installed plugins if None.
        report: Whether to draw figures and write ``report.html``, which requires matplotlib.
        progress: Whether to show progress: bars in a terminal, otherwise a line for each stage and epoch.

    Returns:
        The result.

    Raises:
        RebasinError: If the configuration, the data or a loaded file is invalid, or results cannot be written.
    """
    if not isinstance(config, RunConfig):
        raise_wrong_type(config, "a `RunConfig`", "`load_run` reads one from a file")
    require_path(output)
    registry = registry or default_registry()
    opened = store if isinstance(store, Store) else Store.open(Path(output) / STORE if store is None else store)
    workspace = Workspace(opened, registry=registry, device=config.device, progress=progress)
    contents = Contents(registry)
    plan = RunPlan(config, contents, report=report)
    preparation = _prepared(plan, workspace, contents)
    with RunFolder(output, {role: stage.id for role, stage in plan.roles.items()}, _record(plan)) as folder:
        opened.write_root(root_of("run", str(folder.root.absolute())), [stage.id for stage in plan.graph])
        preparation.write()
        computed, artifacts = _completed(plan, workspace, folder)
    return _result(plan, folder.root, artifacts, workspace, computed)


def _prepared(plan: RunPlan, workspace: Workspace, contents: Contents) -> Preparation:
    """Check the run before any computation and before any file is written."""
    stored = workspace.store.ids()
    preparation = Preparation(workspace, contents, stored)
    preparation.check(plan.cell, [stage for stage in plan.cell.origins.values() if stage.id not in stored])
    return preparation


def _completed(
    plan: RunPlan, workspace: Workspace, folder: RunFolder
) -> tuple[tuple[str, ...], Mapping[str, Artifact]]:
    """Compute the run and write its results; compute stages again whose stored results are damaged.

    Args:
        plan: The plan.
        workspace: Store and device.
        folder: The output folder.

    Returns:
        Identities of the computed stages, and the results by role.

    Raises:
        RebasinError: If a stage fails.
        DamagedArtifactError: If a result is damaged again after it was computed again.
        MissingArtifactError: If a result is removed again after it was computed again.
        StorageError: If a stage cannot read results that are computed again and again.
    """
    store = workspace.store
    # In a terminal, each stage has a bar of its own.
    observers = [StageLines()] if workspace.progress and not sys.stderr.isatty() else []
    settings = Settings(stop_at_failure=True, raise_errors=True, run=Runner(workspace))
    computed: tuple[str, ...] = ()
    while True:
        scheduler = Scheduler(plan.graph, store, InProcessExecutor(), settings, observers)
        outcome = scheduler.run([stage.id for stage in plan.roles.values()])
        for failure in outcome.failures.values():  # other errors have been raised
            raise StorageError(str(failure))
        repeated = set(computed) & set(outcome.computed)
        computed += outcome.computed
        try:
            artifacts = {role: store.read(stage.id) for role, stage in plan.roles.items()}
            folder.write(artifacts, store)
        except (DamagedArtifactError, MissingArtifactError) as error:
            if error.id in repeated:  # the disk damages the files that are written
                raise
            store.remove(error.id)
        else:
            return computed, artifacts


def _record(plan: RunPlan) -> dict[str, Any]:
    code = {name: number for stage in plan.graph for name, number in stage.code}
    return {
        "config": json.loads(plan.config.canonical_json()),
        "inputs": dict(plan.inputs),
        "code": code,
        "about": environment(),
    }


def _result(
    plan: RunPlan, folder: Path, artifacts: Mapping[str, Artifact], workspace: Workspace, computed: tuple[str, ...]
) -> RunResult:
    summary = artifacts["summary"].documents["summary"]
    curves: dict[str, dict[Any, dict[str, LossCurve]]] = {"curve": {}, "means": {}}
    for role, artifact in artifacts.items():
        kind, _, rest = role.partition("/")
        if kind in curves:
            split, _, label = rest.partition("/")
            curves[kind].setdefault(split, {})[label] = curve_in(artifact.documents)
    return RunResult(
        folder,
        curves["curve"],
        summary["wasserstein_distances"],
        summary["matches"],
        str(workspace.device),
        curves["means"],
        tuple(plan.graph[identity].label for identity in computed),
    )
