"""Pooling and resampling of spatial positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.operators.convolution import at
from rebasin_core.specs.unification.relation import Sight
from rebasin_core.specs.unification.terms import length, uniform

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm

_KERNEL = "positions are mixed by a kernel"
_INDEX = "the index of an extremum is used"


def pooling(call: Call) -> Result:
    """Keep batch and channels. Positions are fixed unless one window covers all of them, or every window only one.

    Args:
        call: A pooling operator.

    Returns:
        The axes of the result, and of the indices if they are returned. Using the indices fixes the positions.
    """
    inputs = call.first
    dims = _dims(call)
    positions = inputs[len(inputs) - dims :]
    if 1 in call.used:
        positions = tuple(call.freeze(term, _INDEX) for term in positions)
    sizes = call.shapes[0][len(inputs) - dims :]
    terms: list[AxisTerm] = [*inputs[: len(inputs) - dims], *positions]
    mixed: dict[int, int] = {}
    for index, (term, size) in enumerate(zip(positions, sizes, strict=True)):
        dim = len(inputs) - dims + index
        if _covers_all(call, index, length(term), size):
            call.see(term, Sight.ANY if "max" in call.operator else Sight.SUM)
            terms[dim] = ()
        elif not (_covers_one(call, index) or ("adaptive" in call.operator and size == length(term))):
            mixed[dim] = size
    return [call.mix(tuple(terms), mixed, _KERNEL)] * len(call.shapes)


def _covers_all(call: Call, index: int, positions: int, size: int) -> bool:
    """Return whether a single window covers all positions."""
    if size != 1 or "adaptive" in call.operator:
        return size == 1
    kernel = at(call.arguments["kernel_size"], index, 1)
    dilation = at(call.arguments.get("dilation", 1), index, 1)
    return dilation == 1 and kernel - at(call.arguments.get("padding", 0), index, 0) >= positions


def _covers_one(call: Call, index: int) -> bool:
    """Return whether every window covers exactly one position, without padding."""
    if "adaptive" in call.operator:
        return False
    kernel = at(call.arguments["kernel_size"], index, 1)
    stride = at(call.arguments.get("stride"), index, kernel)
    return kernel == stride == 1 and at(call.arguments.get("padding", 0), index, 0) == 0


def resampling(call: Call) -> Result:
    """Keep batch and channels. Positions are fixed unless there is only one, or each is copied once.

    Args:
        call: A resampling operator.

    Returns:
        The axes of the result.
    """
    inputs = call.first
    lead = len(inputs) - _dims(call)
    terms: list[AxisTerm] = [*inputs]
    mixed: dict[int, int] = {}
    for dim, size in enumerate(call.shapes[0][lead:], lead):
        if length(inputs[dim]) == 1:
            terms[dim] = uniform(size)
        elif "nearest" not in call.operator or size != length(inputs[dim]) or _is_scaled(call):
            mixed[dim] = size
    return call.mix(tuple(terms), mixed, _KERNEL)


def _is_scaled(call: Call) -> bool:
    """Return whether a scale factor is given: it may repeat positions even if the size is unchanged."""
    return any(bool(value) for name, value in call.arguments.items() if name.startswith("scale"))


def _dims(call: Call) -> int:
    return next((count for count in (1, 2, 3) if f"{count}d" in call.operator), 2)


_POOLING = (
    *(f"{kind}_pool{dims}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for dims in (1, 2, 3)),
    *(f"max_pool{dims}d_with_indices" for dims in (1, 2, 3)), "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
)  # fmt: skip
_RESAMPLING = (
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d",
    "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **{f"aten.{name}": pooling for name in _POOLING},
    **{f"aten.{name}": resampling for name in _RESAMPLING},
}

SIGHTS: Sights = {
    **{f"aten.{name}": Sight.HOMOGENEOUS if "max" in name else Sight.LINEAR for name in _POOLING},
    **{f"aten.{name}": Sight.LINEAR for name in _RESAMPLING},
}


@final
class PoolingRules(OperatorRules):
    """Rules for pooling and resampling."""

    name = "pooling"
    rules = RULES
    sights = SIGHTS
