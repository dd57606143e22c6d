"""Axes whose order is induced by another axis, because positions along that axis were sorted.

Sorting the expert indices of tokens orders the tokens by expert. If the experts are permuted, this order changes: the
sorted axis is *induced* by the experts. It may be copied, summed over, sorted back by its own positions, or be the axis
of a new tensor. Any other constraint on it, such as unification with an axis of a parameter, fixes the axis that
induces it.
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
    """An axis whose order is induced by another axis.

    Attributes:
        axis: The variable of the induced axis.
        source: The axis whose permutation determines its order.
        rows: Axes such that the order may differ in each of their units.
        key: Identity of the sorted positions; None if an element does not belong to one unit of the source.
    """

    axis: Variable
    source: AxisTerm
    rows: AxisTerms = ()
    key: object = None

    @property
    def is_constrained(self) -> bool:
        """Whether the axis was unified with an older axis, split, fixed, or used without one of its rows."""
        if self.axis.binding is not None or self.axis.parts or self.axis.fixed:
            return True
        rows = [row for term in self.rows for row in variables(term)]
        return any(
            sum(found is one for term in terms for found in variables(term)) != 1
            for terms in self.axis.occurrences.values()
            for one in (self.axis, *rows)
        )
