"""What a matcher returns."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from rebasin_core.symmetry.permutation import Permutable, Permutation

    M = TypeVar("M", bound=nn.Module)
    P = TypeVar("P", bound=Permutable)


@final
class MatchOutcome(Enum):
    """Why a matcher stopped."""

    CONVERGED = "converged: no group can be improved with the others held fixed"
    MAX_SWEEPS = "stopped at the largest number of sweeps; a higher `max_sweeps` may improve the objective"
    INTERRUPTED = "interrupted; begin again from this result with `initial=result.permutation`"
    BUDGET = "stopped when its steps or seconds were spent; more of them may improve the objective"


@final
@dataclass(frozen=True, slots=True)
class MatchResult:
    """The permutation that a matcher found, and how.

    Attributes:
        permutation: Moves the candidate onto the reference.
        objective: What the matcher maximises, at that permutation; larger is better.
        identity_objective: The same without moving anything; never larger than ``objective``.
        outcome: Why the matcher stopped.
        trace: The objective at the start and after each sweep.
        seconds: Wall-clock time, by part of the work.
        upper_bound: What no permutation can exceed, where that is cheap to know: what single groups could gain, each
            by an assignment of its own, and for tensors with several groups the product of their norms.
    """

    permutation: Permutation
    objective: float
    identity_objective: float
    outcome: MatchOutcome
    trace: tuple[float, ...]
    seconds: Mapping[str, float]
    upper_bound: float | None = None

    @property
    def gap(self) -> float | None:
        """By how much the objective could be larger at most; 0 proves that it is the largest."""
        return None if self.upper_bound is None else max(0.0, self.upper_bound - self.objective)

    @property
    def moved(self) -> Mapping[str, int]:
        """The number of units of every group that do not stay in their place."""
        return self.permutation.moved

    @property
    def sweeps(self) -> int:
        """The number of sweeps over the groups."""
        return len(self.trace) - 1

    @overload
    def apply(self, candidate: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def apply(self, candidate: M) -> M: ...
    @overload
    def apply(self, candidate: P) -> P: ...
    def apply(self, candidate: Any) -> Any:
        """Return the candidate, moved onto the reference.

        Args:
            candidate: A mapping of tensors, a module or a posterior, as for `Permutation.apply`.

        Returns:
            The same kind of thing.

        Raises:
            InvalidInputError: If it does not fit the specification.
        """
        return self.permutation.apply(candidate)
