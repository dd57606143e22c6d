"""One added to a parameter as one operator, and its rule: some normalizations multiply by one plus a parameter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, final

from rebasin_core.specs.kinds.statement import Seen
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import length, uniform

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.specs.kinds.constraints import DegreeConstraints
    from rebasin_core.specs.operators.base import Result
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm


def one_plus(tensor: Tensor) -> Tensor:
    """Return a tensor with one added to all entries.

    Args:
        tensor: A parameter, or a copy of one.

    Returns:
        The sum.
    """
    return tensor + 1


ONE_PLUS: Final = one_plus.__name__
"""Name of the operator in a graph."""


@final
class OffsetRule:
    """The rule of `one_plus` in the second interpretation.

    Args:
        constraints: The constraints of the second interpretation.
    """

    def __init__(self, constraints: DegreeConstraints) -> None:
        self._constraints = constraints

    def __call__(self, call: Call) -> Result:
        """Return the axes of the sum.

        Args:
            call: ``one_plus(tensor)``.

        Returns:
            The axes, with degrees of their own where the tensor is a parameter.
        """
        return tuple(self._offset(call, term) for term in call.first)

    def _offset(self, call: Call, term: AxisTerm) -> AxisTerm:
        degree = self._constraints.degree_of(term)
        if degree is None or degree.own_slot is None:
            return call.relate(Relation.EQUAL, term, uniform(length(term)))
        reason = call.because("one is added to all units")
        self._constraints.seen.append(Seen(degree, Sight.SUM, reason, is_offset=True))
        return (self._constraints.new_axis(length(term), replace(degree, own_slot=None, offset_slot=degree.own_slot)),)
