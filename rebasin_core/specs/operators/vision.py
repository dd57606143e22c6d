"""Operators of torchvision, identified by name; torchvision is not imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.convolution import SAMPLED, convolution
from rebasin_core.specs.operators.indexing import frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.specs.operators.base import Result, Rule
    from rebasin_core.specs.operators.call import Call


def roi_align(call: Call) -> Result:
    """Keep the channels. Positions are sampled at coordinates and fixed; the result has one entry per region.

    Args:
        call: ``roi_align`` or ``roi_pool``.

    Returns:
        The axes of the result.
    """
    batch, channels, *positions = call.first
    for term in (batch, *positions):
        call.freeze(term, SAMPLED)
    regions, coordinates = call.tensors[1]
    call.freeze(coordinates, SAMPLED)
    return [(regions, channels, *(call.fixed(size, SAMPLED) for size in shape[2:])) for shape in call.shapes]


def deform_conv2d(call: Call) -> Result:
    """Tie channels as a convolution does; positions, offsets and masks are fixed.

    Args:
        call: ``deform_conv2d(input, weight, offset, mask, bias, ...)``.

    Returns:
        The axes of the result.
    """
    for name in ("offset", "mask"):
        for term in call.optional(name) or ():
            call.freeze(term, SAMPLED)
    inputs = call.tensor("input")
    result = convolution(call)
    for term in (*inputs[2:], *call.tensor("weight")[2:]):
        call.freeze(term, SAMPLED)
    return (*result[:2], *(call.fixed(size, SAMPLED) for size in call.shapes[0][2:]))


RULES: dict[str, Rule] = {
    "torchvision.deform_conv2d": deform_conv2d,
    "torchvision.nms": frozen,
    "torchvision.roi_align": roi_align,
    "torchvision.roi_pool": roi_align,
}


@final
class VisionRules(OperatorRules):
    """Rules for torchvision's custom operators."""

    name = "vision"
    exempt_laws: ClassVar[Mapping[str, str]] = {
        "rules_are_sound": "the operators need torchvision, which is not a dependency"
    }
    rules = RULES
