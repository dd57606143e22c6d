"""Adjustments of the networks on a path before their loss is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from rebasin_core.evaluation.networks import Adjust
    from rebasin_core.posteriors.base import Posterior

Endpoints: TypeAlias = "tuple[Iterable[Mapping[str, Tensor]], Iterable[Mapping[str, Tensor]]]"
"""Tensors by name of the sampled networks at t = 0, and of those at t = 1."""


class PathAdjustment(ABC):
    """Changes the sampled networks on a path: recomputes their statistics, or repairs their activations.

    Laws:
        - *Endpoints*: nothing is changed at t = 0 and t = 1.
    """

    @abstractmethod
    def at(self, t: float, point: Posterior, endpoints: Endpoints) -> Adjust | None:
        """Return the change to apply to the tensors of a network sampled at t; None if there is none.

        Args:
            t: The interpolation coefficient, in [0, 1].
            point: The posterior at t.
            endpoints: The networks sampled at each endpoint with the noise of those at t, in the same order. They can
                be iterated again and again.

        Returns:
            A function of the tensors of a network and its index among the samples, or None.
        """


def in_turn(first: Adjust | None, second: Adjust | None) -> Adjust | None:
    """Return the composition of two changes.

    Args:
        first: A change, or None.
        second: The change that follows it, or None.

    Returns:
        Both, one after the other; None if there is neither.
    """
    if first is None or second is None:
        return first or second

    def both(tensors: Mapping[str, Tensor], index: int) -> Mapping[str, Tensor]:
        return second(first(tensors, index), index)

    return both
