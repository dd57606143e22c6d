"""Reading of the results of a study from its store."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rebasin_core.studies.kinds.curve import curve_in
from rebasin_core.studies.results.results import Results
from rebasin_core.studies.results.row import Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.studies.planning.study import PlannedCurve
    from rebasin_core.studies.store import Artifact
    from rebasin_core.studies.study import Study


def read_results(study: Study) -> Results:
    """Read the results of a study, as far as they are stored.

    Args:
        study: The study. It can be unfinished, or be computed at the same time.

    Returns:
        One row per stored curve, in the order of the plan.

    Raises:
        DamagedArtifactError: If a stored result is damaged.
        StorageError: If the store cannot be read.
    """
    stored = study.store.ids()
    curves = [curve for curve in study.plan.curves if curve.stage in stored]
    matches = {curve.match for curve in study.plan.curves if curve.match} & stored
    artifacts = study.store.read_many(sorted({curve.stage for curve in curves} | matches))
    # The distance of the unaligned pair is stored with its matches.
    unaligned = {
        (curve.cell, curve.reference, curve.candidate): artifacts[curve.match].documents["distances"]["unaligned"]
        for curve in study.plan.curves
        if curve.match in artifacts
    }
    rows: list[Row] = []
    for curve in curves:
        factors = study.plan.cells[curve.cell][0].factors
        distance = unaligned.get((curve.cell, curve.reference, curve.candidate))
        rows.append(_row(curve, factors, artifacts, distance))
    return Results(tuple(rows), tuple(study.plan.cells[0][0].factors))


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
        seconds=_number(artifact.about.get("seconds")),
        match_seconds=_number(match.about.get("seconds") if match else None),
        threads=artifact.about.get("threads"),
        device=str(artifact.about.get("device", "")),
        id=artifact.id,
    )


def _number(value: Any) -> float:  # ruff: ignore[any-type] - JSON
    return float(value) if isinstance(value, int | float) else math.nan
