"""The statements of a graph on degrees: equations between them, and how operators see axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.default import sight_of
from rebasin_core.specs.unification.relation import Sight

if TYPE_CHECKING:
    from rebasin_core.specs.kinds.degree import Degree
    from rebasin_core.specs.operators.base import Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import Reason
    from rebasin_core.symmetry.linear import Shift, Slot


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
        shifts: The layers after units that are an odd function plus a constant.
    """

    degree: Degree
    sight: Sight
    reason: Reason
    scale: Slot | None = None
    is_offset: bool = False
    shifts: tuple[Shift, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Centering:
    """The layers after units that are an odd function plus a constant.

    Attributes:
        shifts: The layers. Their biases contain the constant in centered coordinates.
        obstacle: The reason why there are no centered coordinates; empty if there are.
    """

    shifts: tuple[Shift, ...] = ()
    obstacle: str = "the layers that use the result are not known"


def seen_by(call: Call, sights: Sights, centering: Centering | None) -> tuple[Sight, Reason]:
    """Return how the operator of a call sees the units of the axes that it keeps, and the reason for reports.

    Args:
        call: The call.
        sights: The sights of all operators.
        centering: The layers after the units, for operators with the sight `Sight.CENTERED`.

    Returns:
        The sight, `Sight.ANY` without centered coordinates, and the reason.
    """
    sight = sight_of(call, sights)
    why = f"units are seen by {call.operator.removeprefix('aten.')}"
    own = centering or Centering()
    if sight is Sight.CENTERED and own.obstacle:
        return Sight.ANY, call.because(f"{why}, without flips: {own.obstacle}")
    return sight, call.because(why)
