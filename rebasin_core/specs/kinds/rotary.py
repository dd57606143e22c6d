"""Rotary positions as one operator, and its rule: it commutes with rotations and scales of pairs of units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.symmetry.pairs import Pairs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.specs.kinds.constraints import DegreeConstraints
    from rebasin_core.specs.operators.base import Result
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm
    from rebasin_core.symmetry.kind import Slot


def rotary_positions(tensor: Tensor, cos: Tensor, sin: Tensor, pairs: str = "halves") -> Tensor:
    """Return pairs of units of the last dimension, rotated by given angles.

    Args:
        tensor: ``[..., 2 * n]``.
        cos: Cosines, ``[..., n]``, or ``[..., 2 * n]`` with equal entries for both units of a pair.
        sin: Sines, of the same shape.
        pairs: A value of `Pairs`: which units are a pair.

    Returns:
        The rotated tensor.
    """
    own = Pairs(pairs)
    first, second = own.parts(tensor, -1)
    if cos.shape[-1] == tensor.shape[-1]:
        cos, sin = own.parts(cos, -1)[0], own.parts(sin, -1)[0]
    return own.joined(first * cos - second * sin, second * cos + first * sin, -1)


ROTARY: Final = rotary_positions.__name__
"""Name of the operator in a graph."""


@final
class RotaryRule:
    """The rule of `rotary_positions` in the second interpretation.

    Args:
        constraints: The constraints of the second interpretation.
        pairs: The pairs of units at each slot.

    Attributes:
        tensors: The last axis of the tensor that each call rotates, by the name of its node.
    """

    def __init__(self, constraints: DegreeConstraints, pairs: Mapping[Slot, Pairs]) -> None:
        self._constraints = constraints
        self._pairs = pairs
        self.tensors: dict[str, AxisTerm] = {}

    def __call__(self, call: Call) -> Result:
        """Keep the axis of the pairs.

        Args:
            call: ``rotary_positions(tensor, cos, sin, pairs)``.

        Returns:
            The axes of the rotated tensor.
        """
        tensor, cos, sin, pairs = call.arguments.values()
        self.tensors[call.node] = tensor[-1]
        degree = self._constraints.degree_of(tensor[-1])
        if degree is None or any(self._pairs.get(slot) != pairs for slot in degree.slots):
            call.see(tensor[-1], Sight.ANY)
        for term in (cos[-1], sin[-1]):
            call.see(term, Sight.ANY)
        found = call.broadcast(tensor[:-1], cos[:-1], relation=Relation.PRODUCT)
        return (*call.broadcast(found, sin[:-1], relation=Relation.PRODUCT), tensor[-1])
