"""The predictive scores of one posterior of a study."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from rebasin_core.studies.results.row import SEPARATOR, Scalar, as_scalar, known
from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Mapping

_CIRCUMSTANCES = ("threads", "device", "torch", "id")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresRow:
    """The predictive scores of one posterior on one split of the dataset.

    Attributes:
        factors: Level of each factor of the study, by name.
        member: Name of the posterior, such as its seed.
        split: Split of the dataset.
        scores: Scores by name (`PredictiveScores`): ``nll``, its errors, and others such as ``accuracy``; NaN if
            unknown.
        seconds: Time to compute the scores, in seconds; NaN if unknown.
        train_seconds: Time to train the posterior, in seconds; NaN if unknown, or if it was loaded.
        threads: Number of threads; None if unknown.
        device: Device of the computation; empty if unknown.
        torch: Version of PyTorch; empty if unknown.
        notes: Reasons for which the Monte Carlo error cannot be trusted; separated by ``|`` in the
            column.
        id: Identity of the artifact in the store; empty if there is none.
    """

    factors: Mapping[str, Scalar] = field(default_factory=dict)
    member: str
    split: str
    scores: Mapping[str, float]
    seconds: float = math.nan
    train_seconds: float = math.nan
    threads: int | None = None
    device: str = ""
    torch: str = ""
    notes: tuple[str, ...] = ()
    id: str = ""

    @classmethod
    def of(cls, document: Mapping[str, Any], factors: Mapping[str, object], **values: Any) -> ScoresRow:  # ruff: ignore[any-type] - JSON
        """Return the row of stored scores.

        Args:
            document: The document ``scores`` of the stage.
            factors: Level of each factor by name; a level that is a list or mapping becomes JSON text.
            **values: The other attributes: ``member``, ``split``, and optionally ``seconds``,
                ``train_seconds``, ``threads``, ``device``, ``torch`` and ``id``.

        Returns:
            The row.
        """
        return cls(
            factors=FrozenMapping({name: as_scalar(level) for name, level in factors.items()}),
            scores=FrozenMapping({
                name: math.nan if value is None else float(value) for name, value in document["scores"].items()
            }),
            notes=tuple(document["notes"]),
            **values,
        )

    def values(self) -> dict[str, Scalar]:
        """Return all values by column; NaN becomes None.

        Returns:
            The factors, the scores and the other attributes. ``_score`` is appended to the name of a score
            that is the name of a factor or another column.
        """
        before: dict[str, Scalar] = {**self.factors, "member": self.member, "split": self.split}
        after = {name: getattr(self, name) for name in ("seconds", "train_seconds", *_CIRCUMSTANCES)}
        after["notes"] = SEPARATOR.join(self.notes)
        taken = {*before, *after}
        scores = {f"{name}_score" if name in taken else name: value for name, value in self.scores.items()}
        return {name: known(value) for name, value in {**before, **scores, **after}.items()}
