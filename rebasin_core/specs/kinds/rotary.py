"""Rotary positions as one operator, and its rule: it commutes with rotations and scales of pairs of units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, final

import torch

from rebasin_core.specs.unification.relation import Relation, Sight

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.specs.kinds.constraints import DegreeConstraints
    from rebasin_core.specs.operators.base import Result
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm


def rotary_positions(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return pairs of units, of the first and second half of the last dimension, rotated by given angles.

    Args:
        tensor: ``[..., 2 * n]``.
        cos: Cosines, ``[..., n]``, or ``[..., 2 * n]`` with equal halves.
        sin: Sines, of the same shape.

    Returns:
        The rotated tensor.
    """
    first, second = tensor.chunk(2, -1)
    half = first.shape[-1]
    cos, sin = cos[..., :half], sin[..., :half]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


ROTARY: Final = rotary_positions.__name__
"""Name of the operator in a graph."""


@final
class RotaryRule:
    """The rule of `rotary_positions` in the second interpretation.

    Args:
        constraints: The constraints of the second interpretation.

    Attributes:
        tensors: The last axis of the tensor that each call rotates, by the name of its node.
    """

    def __init__(self, constraints: DegreeConstraints) -> None:
        self._constraints = constraints
        self.tensors: dict[str, AxisTerm] = {}

    def __call__(self, call: Call) -> Result:
        """Keep the axis of the pairs.

        Args:
            call: ``rotary_positions(tensor, cos, sin)``.

        Returns:
            The axes of the rotated tensor.
        """
        tensor, cos, sin = call.arguments.values()
        self.tensors[call.node] = tensor[-1]
        if self._constraints.degree_of(tensor[-1]) is None:
            call.see(tensor[-1], Sight.ANY)
        for term in (cos[-1], sin[-1]):
            call.see(term, Sight.ANY)
        found = call.broadcast(tensor[:-1], cos[:-1], relation=Relation.PRODUCT)
        return (*call.broadcast(found, sin[:-1], relation=Relation.PRODUCT), tensor[-1])
