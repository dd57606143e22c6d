"""Axes whose order follows from another axis: the order in which positions along it are sorted.

Sorting the numbers of experts brings the tokens into an order that changes if the experts are permuted. The sorted axis
is *induced*: it may be carried along, summed over, or brought back by its own positions, but it must not meet any other
axis, since nothing can be said about its order. Where it does, the axis that induces it is fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.specs.unification.terms import Variable, variables

if TYPE_CHECKING:
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms


@final
@dataclass(frozen=True, slots=True, eq=False)
class InducedAxis:
    """An axis whose order follows from another.

    Attributes:
        axis: Its variable.
        source: The axis whose permutation induces its order.
        rows: Axes in each unit of which the order may be another.
        key: Identifies the positions that were sorted; None if each element does not belong to one unit of the source.
    """

    axis: Variable
    source: AxisTerm
    rows: AxisTerms = ()
    key: object = None

    @property
    def is_met(self) -> bool:
        """Whether the axis was unified with another one, divided, fixed, or used without one of its rows."""
        if self.axis.binding is not None or self.axis.parts or self.axis.fixed:
            return True
        rows = [row for term in self.rows for row in variables(term)]
        return any(
            sum(found is one for term in terms for found in variables(term)) != 1
            for terms in self.axis.occurrences.values()
            for one in (self.axis, *rows)
        )
