"""The result of matching."""

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
    MAX_SWEEPS = "stopped: maximum number of sweeps reached; a larger `max_sweeps` may improve the objective"
    INTERRUPTED = "interrupted; resume with `initial=result.permutation`"
    BUDGET = "stopped: step or time budget exhausted; a larger budget may improve the objective"


@final
@dataclass(frozen=True, slots=True)
class MatchResult:
    """The permutation that a matcher found, with its objective.

    Attributes:
        permutation: Aligns the candidate with the reference.
        objective: The matcher's objective at the permutation; larger is better.
        identity_objective: The objective at the identity; at most ``objective``.
        outcome: Why the matcher stopped.
        trace: The objective at the start and after each sweep.
        seconds: Wall-clock time, by part of the algorithm.
        upper_bound: Upper bound on the objective over all permutations, or None if the matcher computes none. Tensors
            with one group contribute their best assignment, tensors with several groups the product of their norms.
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
        """Optimality gap: ``upper_bound - objective``; 0 proves global optimality, None without a bound."""
        return None if self.upper_bound is None else max(0.0, self.upper_bound - self.objective)

    @property
    def moved(self) -> Mapping[str, int]:
        """Number of permuted units (not fixed points) of every group."""
        return self.permutation.moved

    @property
    def sweeps(self) -> int:
        """Number of sweeps over the groups."""
        return len(self.trace) - 1

    @overload
    def apply(self, candidate: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def apply(self, candidate: M) -> M: ...
    @overload
    def apply(self, candidate: P) -> P: ...
    def apply(self, candidate: Any) -> Any:
        """Return the aligned candidate.

        Args:
            candidate: A mapping of tensors, a module or a posterior, as for `Permutation.apply`.

        Returns:
            A permuted copy of the same type.

        Raises:
            InvalidInputError: If it does not fit the specification.
        """
        return self.permutation.apply(candidate)
