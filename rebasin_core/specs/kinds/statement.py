"""The statements of a graph on degrees: equations between them, and how operators see axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from rebasin_core.specs.kinds.degree import Degree
    from rebasin_core.specs.unification.relation import Sight
    from rebasin_core.specs.unification.terms import Reason
    from rebasin_core.symmetry.linear import Slot


@final
@dataclass(frozen=True, slots=True)
class Equation:
    """The degrees of two axes are equal, or opposite if their product is summed over.

    Attributes:
        first: Degree of the first axis.
        second: Degree of the second axis.
        is_contraction: Whether the degrees are opposite.
        reason: The operator.
    """

    first: Degree
    second: Degree
    is_contraction: bool
    reason: Reason


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """How an operator sees an axis.

    Attributes:
        degree: Degree of the axis.
        sight: How it is seen.
        reason: The operator.
        scale: The slot of the vector by which it is multiplied unit by unit, if that is a parameter $w$ or $1 + w$.
        is_offset: Whether one is added to a parameter, whose axis this is, and the result is the axis with its
            `Degree.offset_slot`.
    """

    degree: Degree
    sight: Sight
    reason: Reason
    scale: Slot | None = None
    is_offset: bool = False
