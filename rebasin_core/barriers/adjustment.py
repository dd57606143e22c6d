"""Adjustments of the networks on a path before their loss is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.networks import Adjust, Sampling
    from rebasin_core.posteriors.base import Posterior

Endpoints: TypeAlias = "tuple[Iterable[Mapping[str, Tensor]], Iterable[Mapping[str, Tensor]]]"
"""Tensors by name of the sampled networks at t = 0, and of those at t = 1."""


class PathAdjustment(ABC):
    """Adjustment of the sampled networks on a path, such as recomputed statistics or repaired activations.

    Laws:
        - *Endpoints*: at t = 0 and t = 1 the adjustment is the identity.
    """

    @abstractmethod
    def at(self, t: float, point: Posterior, endpoints: Endpoints) -> Adjust | None:
        """Return the change to apply to the tensors of a network sampled at t; None if there is none.

        Args:
            t: The interpolation coefficient, in [0, 1].
            point: The posterior at t.
            endpoints: The networks sampled at each endpoint with the same noise as at t, in the same order. Each of
                the two can be iterated repeatedly.

        Returns:
            A function of the tensors of a network and its index among the samples, or None.
        """


class PathCalibration(ABC):
    """Likelihood that depends on the point of the path, such as one with a fitted softmax temperature."""

    @abstractmethod
    def at(self, t: float, posterior: Posterior, sampling: Sampling) -> Likelihood:
        """Return the likelihood at t.

        Args:
            t: The interpolation coefficient, in [0, 1].
            posterior: The posterior at t.
            sampling: Number and seed of its samples, and how they are adjusted.

        Returns:
            The likelihood with which the posterior is evaluated.
        """


def in_turn(first: Adjust | None, second: Adjust | None) -> Adjust | None:
    """Return the composition of two changes.

    Args:
        first: A change, or None.
        second: The change applied after it, or None.

    Returns:
        A function that applies `first`, then `second`; None if both are None.
    """
    if first is None or second is None:
        return first or second

    def both(tensors: Mapping[str, Tensor], index: int) -> Mapping[str, Tensor]:
        return second(first(tensors, index), index)

    return both
