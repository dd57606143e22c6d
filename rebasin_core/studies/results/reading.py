"""Reading of the results of a study from its store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, final

from rebasin_core.api.conversion import load_posterior
from rebasin_core.studies.kinds.curve import curve_in
from rebasin_core.studies.kinds.names import POSTERIOR
from rebasin_core.studies.results.notes import caveats, circumstances, damaged, failed
from rebasin_core.studies.results.results import Results
from rebasin_core.studies.results.row import Row
from rebasin_core.studies.results.scores import ScoresRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rebasin_core.config.study import Cell
    from rebasin_core.plugin.registry import Registry
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.studies.planning.study import PlannedCurve, StudyPlan
    from rebasin_core.studies.store import Artifact, Store


class PlannedStudy(Protocol):
    """A study with its plan and its store, as `rebasin_core.Study`, which is defined above this module."""

    @property
    def plan(self) -> StudyPlan:
        """The stages."""

    @property
    def store(self) -> Store:
        """The store."""


def read_results(study: PlannedStudy) -> Results:
    """Read the results of a study, as far as they are stored.

    Args:
        study: The study. It can be unfinished, or be computed at the same time.

    Returns:
        One row per stored curve, and one per stored scores of a posterior, in the order of the plan. Damaged results
        are omitted and noted.

    Raises:
        FileFormatError: If a stored result has another format.
        StorageError: If the store cannot be read.
    """
    plan = study.plan
    stored = study.store.ids()
    wanted = stored & {*plan.targets, *(stage.id for _, cell in plan.cells for stage in cell.origins.values())}
    artifacts = study.store.read_many(sorted(wanted))
    unreadable = sorted(wanted - artifacts.keys())
    needed = plan.graph.needed(plan.targets, stored - set(unreadable))
    rows = _rows(study, artifacts)
    scores = _scores(study, artifacts)
    notes = [
        *failed(study.store.read_failures() if needed else {}, needed),
        *damaged([identity for identity in unreadable if study.store.has(identity)]),
        *circumstances(artifacts.values()),
        *caveats([row.notes for row in rows], "curves"),
        *caveats([row.notes for row in scores], "scores"),
    ]
    factors = tuple(plan.cells[0][0].factors)
    return Results(tuple(rows), factors, tuple(scores), plan.graph.counts(needed), tuple(notes))


@final
@dataclass(frozen=True, slots=True)
class StudyPosterior:
    """A posterior of a study.

    Attributes:
        cell: Its cell, with the factors and the run configuration.
        member: Its name in the cell, such as its seed.
        posterior: The posterior, on the CPU.
        id: Identity of its artifact in the store.
    """

    cell: Cell
    member: str
    posterior: Posterior
    id: str


def read_posteriors(study: PlannedStudy, *, registry: Registry | None = None) -> Iterator[StudyPosterior]:
    """Read the posteriors of a study sequentially, as far as they are stored.

    Args:
        study: The study.
        registry: Registry of representations; all installed plugins if None.

    Yields:
        Each posterior of each cell, in the order of the plan. Cells that share a training yield the same posterior.

    Raises:
        DamagedArtifactError: If a stored posterior is damaged.
        StorageError: If the store cannot be read.
    """
    stored = study.store.ids()
    for planned in study.plan.posteriors:
        if planned.stage in stored:
            artifact = study.store.read(planned.stage)
            posterior = load_posterior(study.store.fetch(artifact, POSTERIOR), registry=registry)
            yield StudyPosterior(study.plan.cells[planned.cell][0], planned.member, posterior, artifact.id)


def _rows(study: PlannedStudy, artifacts: Mapping[str, Artifact]) -> list[Row]:
    # The distance of the unaligned pair is stored with its matches.
    unaligned = {
        (curve.cell, curve.reference, curve.candidate): artifacts[curve.match].documents["distances"]["unaligned"]
        for curve in study.plan.curves
        if curve.match in artifacts
    }
    rows: list[Row] = []
    for curve in study.plan.curves:
        if curve.stage in artifacts:
            factors = study.plan.cells[curve.cell][0].factors
            distance = unaligned.get((curve.cell, curve.reference, curve.candidate))
            rows.append(_row(curve, factors, artifacts, distance))
    return rows


def _row(
    planned: PlannedCurve, factors: Mapping[str, object], artifacts: Mapping[str, Artifact], unaligned: float | None
) -> Row:
    artifact = artifacts[planned.stage]
    match = artifacts.get(planned.match) if planned.match else None
    return Row.of(
        curve_in(artifact.documents),
        factors,
        reference=planned.reference,
        candidate=planned.candidate,
        split=planned.split,
        barrier=planned.barrier,
        alignment=planned.alignment,
        distance=_number(match.documents["distances"]["aligned"] if match else None if planned.match else unaligned),
        objective=_number(match.documents["match"]["objective"] if match else None),
        match_seconds=_number(match.about.get("seconds") if match else None),
        **_circumstances(artifact),
    )


def _scores(study: PlannedStudy, artifacts: Mapping[str, Artifact]) -> list[ScoresRow]:
    trained = {
        (posterior.cell, posterior.member): artifacts.get(
            study.plan.cells[posterior.cell][1].origins[posterior.stage].id
        )
        for posterior in study.plan.posteriors
    }
    return [
        ScoresRow.of(
            artifacts[planned.stage].documents["scores"],
            study.plan.cells[planned.cell][0].factors,
            member=planned.member,
            split=planned.split,
            train_seconds=_seconds_of_training(trained[planned.cell, planned.member]),
            **_circumstances(artifacts[planned.stage]),
        )
        for planned in study.plan.scores
        if planned.stage in artifacts
    ]


def _seconds_of_training(artifact: Artifact | None) -> float:
    return _number(artifact.about.get("seconds") if artifact is not None and artifact.kind == "train" else None)


def _circumstances(artifact: Artifact) -> dict[str, Any]:
    return {
        "seconds": _number(artifact.about.get("seconds")),
        "threads": artifact.about.get("threads"),
        "device": str(artifact.about.get("device", "")),
        "torch": str(artifact.about.get("torch", "")),
        "id": artifact.id,
    }


def _number(value: Any) -> float:  # ruff: ignore[any-type] - JSON
    return float(value) if isinstance(value, int | float) else math.nan
