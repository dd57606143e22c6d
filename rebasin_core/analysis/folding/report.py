"""The report of a folding: the folded parts, and reasons for the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from rebasin_core.errors import SpecError
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rebasin_core.analysis.folding.plan import FoldingPlan
    from rebasin_core.checkpoints.function_check import FunctionDifference
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.folding import Obstacle


@final
@dataclass(frozen=True, slots=True)
class FoldingReport:
    """Folded parts of a network.

    Attributes:
        scales: Scales that were multiplied into the next weights, and are one now; parameters $w$ of scales $1 + w$ are
            zero.
        shifts: Shifts that were added to the next biases, and are zero now.
        centered: Tensors from which a mean was subtracted.
        kept: For every scale that is not one and every shift that is not zero, the reason.
        is_complete: Whether all scales are one that must be for the `folded_symmetry` of the specification.
        difference: Difference of the outputs before and after; None if it was not measured.
    """

    scales: tuple[str, ...]
    shifts: tuple[str, ...]
    centered: tuple[str, ...]
    kept: Mapping[str, str] = field(default_factory=dict)
    is_complete: bool = True
    difference: FunctionDifference | None = None

    def __post_init__(self) -> None:
        """Freeze the mapping."""
        object.__setattr__(self, "kept", FrozenMapping(dict(self.kept)))

    @classmethod
    def of(
        cls, spec: PermutationSpec, plans: Sequence[FoldingPlan], difference: FunctionDifference | None = None
    ) -> FoldingReport:
        """Return the report for the plans of all networks of a posterior.

        Args:
            spec: The specification.
            plans: The plan for each network.
            difference: Difference of the outputs before and after; None if it was not measured.

        Returns:
            The report.
        """
        kept: dict[str, str] = {}
        for plan in plans:
            for name, obstacle in plan.kept.items():
                kept.setdefault(name, f"{obstacle}{_tie(spec, obstacle)}")
        first = plans[0]
        return cls(
            tuple(name for name in first.scales if name not in kept),
            tuple(name for name in first.shifts if name not in kept),
            tuple(dict.fromkeys(at.tensor for at in first.centered)),
            kept,
            all(plan.is_complete for plan in plans),
            difference,
        )

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        function = (
            None if self.difference is None else {"error": self.difference.error, "kept": self.difference.is_kept}
        )
        return {
            "scales": [*self.scales],
            "shifts": [*self.shifts],
            "centered": [*self.centered],
            "kept": dict(self.kept),
            "complete": self.is_complete,
            "function": function,
        }

    def require(self) -> None:
        """Raise if a scale differs from one that must be one for the `folded_symmetry` of the specification.

        Raises:
            SpecError: If there is one; the message contains the report.
        """
        if not self.is_complete:
            message = f"not all scales of normalizations were folded\n{self}"
            raise SpecError(message)

    @override
    def __str__(self) -> str:
        """Return a readable report."""
        folded = {"scales": self.scales, "shifts": self.shifts, "means of": self.centered}
        lines = [
            f"folded {part}: {shorten([*names])}" if names else f"folded {part}: none" for part, names in folded.items()
        ]
        lines += [f"  kept {name}: {reason}" for name, reason in self.kept.items()]
        admits = "all scales are one" if self.scales else "no scale was found whose folding admits more symmetries"
        if not self.is_complete:
            admits = "NOT all scales are one, so rotations are not admitted"
        return "\n".join([*lines, admits, *([] if self.difference is None else [str(self.difference)])])


def _tie(spec: PermutationSpec, obstacle: Obstacle) -> str:
    """Return how to separate a tensor with several names."""
    names = [alias for alias, name in spec.layout.aliases.items() if obstacle.tensor and name == obstacle.tensor]
    if not names:
        return ""
    return f". It is also `{names[0]}`: `untie=True` (--untie) makes them two tensors"
