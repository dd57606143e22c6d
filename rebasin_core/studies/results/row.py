"""One row of the results of a study: one loss curve of one pair of posteriors."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias, final

from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.barriers.curve import LossCurve

SEPARATOR = " | "
"""Between the notes in a column."""

Scalar: TypeAlias = str | int | float | bool | None
"""Value in a table."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One loss curve: a pair of posteriors in one cell of a study, one alignment, split and barrier estimator.

    Attributes:
        factors: Level of each factor of the study, by name.
        reference: Name of the reference, such as its seed.
        candidate: Name of the candidate.
        split: Split of the dataset.
        barrier: Label of the barrier estimator.
        alignment: ``unaligned``, or the label of the matcher.
        metric: Name of the metric that is reported as the loss.
        height: The barrier.
        height_stderr: Its Monte Carlo standard error.
        height_data_stderr: Its standard error from the finite dataset.
        height_bias: Its estimated bias.
        location: The t of the barrier.
        interior_excess: Largest excess at 0 < t < 1; negative if there is no barrier.
        interior_location: Its t.
        reference_loss: Loss at t = 0.
        midpoint_loss: Loss at the point nearest to t = 0.5.
        candidate_loss: Loss at t = 1.
        baseline: Loss of the best constant prediction.
        score_name: Name of the score, such as ``accuracy``.
        reference_score: Score at t = 0.
        midpoint_score: Score at the point nearest to t = 0.5.
        candidate_score: Score at t = 1.
        distance: 2-Wasserstein distance between reference and candidate; NaN if unknown.
        objective: Objective of the matcher; NaN for the unaligned pair.
        seconds: Time to compute the curve, in seconds; NaN if unknown.
        match_seconds: Time to match the pair, in seconds; NaN for the unaligned pair.
        threads: Number of threads; None if unknown.
        device: Device of the computation; empty if unknown.
        torch: Version of PyTorch; empty if unknown.
        notes: Caveats of the curve (`LossCurve.notes`); separated by ``|`` in the column.
        id: Identity of the curve's artifact in the store; empty if there is none.
    """

    factors: Mapping[str, Scalar] = field(default_factory=dict)
    reference: str
    candidate: str
    split: str
    barrier: str
    alignment: str
    metric: str = "nll"
    height: float
    height_stderr: float = math.nan
    height_data_stderr: float = math.nan
    height_bias: float = math.nan
    location: float = math.nan
    interior_excess: float
    interior_location: float = math.nan
    reference_loss: float
    midpoint_loss: float
    candidate_loss: float
    baseline: float = math.nan
    score_name: str = ""
    reference_score: float = math.nan
    midpoint_score: float = math.nan
    candidate_score: float = math.nan
    distance: float = math.nan
    objective: float = math.nan
    seconds: float = math.nan
    match_seconds: float = math.nan
    threads: int | None = None
    device: str = ""
    torch: str = ""
    notes: tuple[str, ...] = ()
    id: str = ""

    @classmethod
    def of(cls, curve: LossCurve, factors: Mapping[str, object], **values: Any) -> Row:  # ruff: ignore[any-type] - attributes of several types
        """Return the row of a curve.

        Args:
            curve: The curve.
            factors: Level of each factor by name; a level that is a list or mapping becomes JSON text.
            **values: The attributes that are not those of the curve: ``reference``, ``candidate``, ``split``,
                ``barrier``, ``alignment``, and optionally ``distance``, ``objective``, ``seconds``, ``match_seconds``,
                ``threads``, ``device``, ``torch`` and ``id``.

        Returns:
            The row.
        """
        middle = min(range(len(curve.t)), key=lambda index: abs(curve.t[index] - 0.5))
        return cls(
            factors=FrozenMapping({name: as_scalar(level) for name, level in factors.items()}),
            metric=curve.metric,
            height=curve.height,
            height_stderr=curve.height_stderr,
            height_data_stderr=curve.height_data_stderr,
            height_bias=curve.height_bias,
            location=curve.location,
            interior_excess=curve.interior_excess,
            interior_location=curve.interior_location,
            reference_loss=curve.loss[0],
            midpoint_loss=curve.loss[middle],
            candidate_loss=curve.loss[-1],
            baseline=curve.baseline,
            score_name=curve.score_name,
            reference_score=curve.score[0],
            midpoint_score=curve.score[middle],
            candidate_score=curve.score[-1],
            notes=curve.notes,
            **values,
        )

    def values(self) -> dict[str, Scalar]:
        """Return the factors and all other attributes by column; NaN becomes None.

        Returns:
            The values, in the order of the columns.
        """
        own: dict[str, Scalar] = {name: getattr(self, name) for name in COLUMNS}
        own["notes"] = SEPARATOR.join(self.notes)
        return {name: known(value) for name, value in {**self.factors, **own}.items()}


COLUMNS: tuple[str, ...] = tuple(part.name for part in fields(Row) if part.name != "factors")
"""Columns of the results in addition to the factors; names that factors cannot have."""


def as_scalar(level: object) -> Scalar:
    """Return the level of a factor as a value in a table.

    Args:
        level: Any JSON value.

    Returns:
        The value; a component without further options is its name, other lists and mappings are JSON text.
    """
    if level is None or isinstance(level, str | int | float | bool):
        return level
    if isinstance(level, dict) and list(level) == ["name"]:
        return str(level["name"])
    return json.dumps(level)


def known(value: Scalar) -> Scalar:
    """Return a value in a table; None for NaN.

    Args:
        value: The value.

    Returns:
        The value or None.
    """
    return None if isinstance(value, float) and math.isnan(value) else value
