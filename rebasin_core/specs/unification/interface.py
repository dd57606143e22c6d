"""The constraints that operator rules add: the interface of both interpretations of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rebasin_core.specs.unification.relation import Relation

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Sequence

    from rebasin_core.specs.unification.constraints import Part, PartPath
    from rebasin_core.specs.unification.induced import InducedAxis
    from rebasin_core.specs.unification.relation import Sight
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, Factor, Reason, Variable


class AxisConstraints(Protocol):
    """Constraints on axes; `Constraints` solves for permutations, `DegreeConstraints` for linear maps."""

    @property
    def restrictions(self) -> dict[tuple[Variable, Variable, int], AxisTerm]:
        """The restrictions that are separate variables."""

    @property
    def induced(self) -> dict[Variable, InducedAxis]:
        """Axes whose order is induced by another axis."""

    def observe(self, terms: AxisTerms) -> None:
        """Record that a tensor with these axes exists."""

    def see(self, term: AxisTerm, sight: Sight, reason: Reason) -> None:
        """Record how an operator sees the units of an axis."""

    def freeze(self, term: AxisTerm, reason: Reason) -> AxisTerm:
        """Fix an axis."""

    def unify(self, first: AxisTerm, second: AxisTerm, reason: Reason, relation: Relation = Relation.TIED) -> AxisTerm:
        """Relate two axes of equal length."""

    def split(self, term: AxisTerm, sizes: Sequence[int], reason: Reason) -> list[Part]:
        """Split an axis into consecutive parts."""

    def divide(self, factors: deque[Factor], size: int, reason: Reason) -> None:
        """Divide the first factor of a product."""

    def restrict(self, term: AxisTerm, path: PartPath) -> AxisTerm:
        """Restrict an axis to a part of another axis of the same tensor."""
