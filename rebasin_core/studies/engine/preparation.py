"""Checks before the first stage: symmetries, files to be loaded, and options of training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, final

from rebasin_core.errors import DamagedArtifactError, MissingArtifactError
from rebasin_core.studies.engine.worker import about_now
from rebasin_core.studies.kinds.base import Context
from rebasin_core.studies.kinds.load import LoadWork
from rebasin_core.studies.kinds.network import NetworkWork, require_tested, spec_in
from rebasin_core.studies.kinds.train import TrainWork
from rebasin_core.studies.stage import without
from rebasin_core.studies.store import Artifact

if TYPE_CHECKING:
    from collections.abc import Collection

    from rebasin_core.studies.kinds.workspace import Workspace
    from rebasin_core.studies.planning.cell import CellPlan
    from rebasin_core.studies.planning.contents import Contents
    from rebasin_core.studies.stage import Stage


@final
class Preparation:
    """Checks cells, in this process, before anything is written.

    Args:
        workspace: The workspace of this process.
        contents: The datasets.
        stored: Identities of the stages with a stored result.
    """

    def __init__(self, workspace: Workspace, contents: Contents, stored: Collection[str]) -> None:
        self._workspace = workspace
        self._contents = contents
        self._stored = stored
        self._networks: dict[str, Artifact] = {}
        self._new: list[Artifact] = []
        self._checked: set[str] = set()

    def check(self, cell: CellPlan, stages: Collection[Stage]) -> None:
        """Check the network of a cell, and those of its stages that are to be computed.

        Args:
            cell: The cell.
            stages: Stages of the cell that train or load posteriors and are to be computed.

        Raises:
            SpecError: If the symmetries change the function, or a permuted tensor could not be tested and the run does
                not set ``allow_untested``.
            InvalidInputError: If a posterior to be loaded does not fit the network, or training options do not fit the
                network or the number of steps.
            FileFormatError: If a file to be loaded is missing or damaged.
        """
        network = self._network(cell.network)
        require_tested(network, allow_untested=cell.config.allow_untested)
        for stage in stages:
            key = without(stage.options, "seed") + repr(stage.inputs)
            if key not in self._checked:
                self._check(cell, stage, network)
                self._checked.add(key)

    def write(self) -> set[str]:
        """Store the results that were computed for the checks.

        Returns:
            Their identities.

        Raises:
            StorageError: If the store cannot be written.
        """
        for artifact in self._new:
            self._workspace.store.write(artifact.stage, artifact.documents, {}, artifact.about)
        written = {artifact.id for artifact in self._new}
        self._new.clear()
        return written

    def _network(self, stage: Stage) -> Artifact:
        """Return the result of a network's stage, stored or computed now."""
        if stage.id not in self._networks:
            self._networks[stage.id] = self._read(stage) or self._computed(stage)
        return self._networks[stage.id]

    def _read(self, stage: Stage) -> Artifact | None:
        if stage.id not in self._stored:
            return None
        try:
            return self._workspace.store.read(stage.id)
        except (MissingArtifactError, DamagedArtifactError):
            return None

    def _computed(self, stage: Stage) -> Artifact:
        start = perf_counter()
        with tempfile.TemporaryDirectory(prefix="rebasin-") as folder:
            context = Context(self._workspace, stage, {}, Path(folder), Path(folder))
            product = NetworkWork.model_validate_json(stage.work).compute(context)
        about = about_now(self._workspace.device, perf_counter() - start)
        artifact = Artifact(stage.id, stage.document, product.documents, {}, about)
        self._new.append(artifact)
        return artifact

    def _check(self, cell: CellPlan, stage: Stage, network: Artifact) -> None:
        if stage.kind == "load":
            model = self._workspace.model(cell.options)
            LoadWork.model_validate_json(stage.work).load(model, self._workspace.registry)
        if stage.kind == "train":
            config = cell.config
            examples = self._contents.splits(config.data, config.num_train, config.num_test).train
            TrainWork.model_validate_json(stage.work).check(self._workspace.device, examples, spec_in(network))
