"""What is done to the networks on a path before they are measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from rebasin_core.evaluation.networks import Adjust
    from rebasin_core.posteriors.base import Posterior

Ends: TypeAlias = "tuple[Iterable[Mapping[str, Tensor]], Iterable[Mapping[str, Tensor]]]"


class PathAdjustment(ABC):
    """Changes the networks drawn at a place of a path: statistics taken anew, activations repaired.

    Laws:
        - *Ends stay*: nothing is changed at 0 and 1.
    """

    @abstractmethod
    def at(self, t: float, point: Posterior, ends: Ends) -> Adjust | None:
        """Return what changes the tensors of a network drawn there, given its number; None if nothing does.

        Args:
            t: The place.
            point: The posterior there.
            ends: The networks drawn at each end with the noise of those drawn here, in their order; they can be
                gone through again and again.

        Returns:
            A function, or None.
        """


def in_turn(first: Adjust | None, second: Adjust | None) -> Adjust | None:
    """Return the two changes one after the other.

    Args:
        first: A change, or None.
        second: The one that follows.

    Returns:
        Both; None if there is none.
    """
    if first is None or second is None:
        return first or second

    def both(tensors: Mapping[str, Tensor], index: int) -> Mapping[str, Tensor]:
        return second(first(tensors, index), index)

    return both
