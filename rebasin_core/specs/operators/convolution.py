"""Convolutions, and operators that rearrange channels and spatial positions."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import length

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms

_KERNEL = "positions are mixed by a kernel"
SAMPLED = "positions are sampled at coordinates"
"""Reason for axes of positions and coordinates."""
_GROUPS = "the channels do not split into the groups of the convolution"


def convolution(call: Call) -> Result:
    """Tie the input channels to the weight, within each group; the rows of the weight are the output channels.

    Args:
        call: ``conv1d``, ``conv2d``, ``conv3d``, their transposes, or ``convolution``.

    Returns:
        The axes of the result.
    """
    inputs = call.first
    weight = call.tensor("weight")
    bias = call.optional("bias")
    lead = len(inputs) - len(weight) + 2
    rows = _channels(call, inputs[lead - 1], weight)
    if bias is not None:
        rows = call.relate(Relation.EQUAL, rows, bias[0], why=_GROUPS)
        for term in (*inputs[: lead - 1], *inputs[lead:]):
            call.see(term, Sight.SUM, "the same bias is added at all positions")
    positions = _positions(call, inputs[lead:], weight[2:])
    mixed = [dim for dim, term in enumerate(positions, lead) if term != inputs[dim]]
    if mixed and any(length(term) > 1 for dim, term in enumerate(positions, lead) if dim not in mixed):
        call.reduce(inputs, mixed)  # dimensions without a kernel are permuted identically at all positions
    return (*inputs[: lead - 1], rows, *positions)


def _channels(call: Call, inputs: AxisTerm, weight: AxisTerms) -> AxisTerm:
    """Return the output channels, after tying the input channels to the weight."""
    transposed = "transpose" in call.operator or bool(call.arguments.get("transposed", False))
    groups = int(call.arguments["groups"])
    channels, within = call.reshape([inputs], [groups, length(inputs) // groups], _GROUPS)
    outer, inner = call.reshape([weight[0]], [groups, length(weight[0]) // groups], _GROUPS)
    column, row = (inner, weight[1]) if transposed else (weight[1], inner)
    both = call.relate(Relation.PRODUCT, channels, outer, why=_GROUPS)
    call.contract(within, column, (both,), why=_GROUPS)
    return (*both, *row)


def _positions(call: Call, spatial: AxisTerms, kernel: AxisTerms) -> list[AxisTerm]:
    """Return the spatial axes of the output: unchanged if the kernel has size 1, fixed if it mixes positions."""
    found: list[AxisTerm] = []
    sizes = call.shapes[0][len(call.shapes[0]) - len(spatial) :]
    for index, (term, window, size) in enumerate(zip(spatial, kernel, sizes, strict=True)):
        if length(window) == 1 and size == length(term) and not _shifts(call, index):
            found.append(term)
            continue
        if length(window) == length(term) and size == 1 and not _padded(call, index):
            found.append(())  # the kernel covers all positions: a dense layer
            call.contract(term, window)
            continue
        call.freeze(window, _KERNEL)
        call.freeze(term, _KERNEL)
        found.append(call.fixed(size, _KERNEL))
    return found


def _shifts(call: Call, index: int) -> bool:
    """Return whether a kernel of size 1 shifts or skips positions, because of padding or a stride."""
    return _padded(call, index) or at(call.arguments.get("stride", 1), index, 1) != 1


def _padded(call: Call, index: int) -> bool:
    padding = call.arguments.get("padding", 0)
    if padding == "same":
        return length(call.tensor("weight")[2 + index]) > 1
    return padding != "valid" and at(padding, index, 0) != 0


def at(value: object, index: int, neutral: int) -> int:
    """Return the value of an option for one spatial dimension.

    Args:
        value: An integer for all dimensions, a list with one for each (or one for all), or None.
        index: Index of the spatial dimension.
        neutral: Default, returned if the option is missing.

    Returns:
        The value.
    """
    if isinstance(value, list | tuple):
        return int(value[index if index < len(value) else -1]) if value else neutral
    return int(value) if isinstance(value, int) else neutral


def grid_sample(call: Call) -> Result:
    """Keep batch and channels. Positions are sampled at coordinates and therefore fixed.

    Args:
        call: ``grid_sampler(input, grid, ...)``.

    Returns:
        The axes of the result.
    """
    inputs = call.tensor("input")
    grid = call.tensor("grid")
    call.reduce(inputs, range(2, len(inputs)))
    for term in inputs[2:]:
        call.freeze(term, SAMPLED)
    call.freeze(grid[-1], SAMPLED)
    return (call.unify(inputs[0], grid[0]), inputs[1], *grid[1:-1])


def pixel_shuffle(call: Call) -> Result:
    """Move two factors of the channel axis to the spatial axes.

    Args:
        call: ``pixel_shuffle(self, upscale_factor)``.

    Returns:
        The axes of the result.
    """
    *lead, channels, height, width = call.tensor("self")
    factor = call.arguments["upscale_factor"]
    outer, down, across = call.reshape([channels], [length(channels) // factor**2, factor, factor])
    return (*lead, outer, (*height, *down), (*width, *across))


def pixel_unshuffle(call: Call) -> Result:
    """Move one factor of each spatial axis to the channel axis.

    Args:
        call: ``pixel_unshuffle(self, downscale_factor)``.

    Returns:
        The axes of the result.
    """
    *lead, channels, height, width = call.tensor("self")
    factor = call.arguments["downscale_factor"]
    high, down = call.reshape([height], [length(height) // factor, factor])
    wide, across = call.reshape([width], [length(width) // factor, factor])
    return (*lead, (*channels, *down, *across), high, wide)


def channel_shuffle(call: Call) -> Result:
    """Transpose the factors of the channel axis: groups, and channels within a group.

    Args:
        call: ``channel_shuffle(self, groups)``.

    Returns:
        The axes of the result.
    """
    inputs = call.tensor("self")
    groups = call.arguments["groups"]
    outer, inner = call.reshape([inputs[1]], [groups, length(inputs[1]) // groups], _GROUPS)
    return (inputs[0], (*inner, *outer), *inputs[2:])


def im2col(call: Call) -> Result:
    """Extract patches as columns, ``[batch, channels * kernel, positions]``.

    Args:
        call: ``im2col(self, kernel_size, ...)``.

    Returns:
        The axes of the result.
    """
    *lead, channels, height, width = call.tensor("self")
    call.observe((*lead, channels))
    call.freeze(height, _KERNEL)
    call.freeze(width, _KERNEL)
    window = prod(call.arguments["kernel_size"])
    return (*lead, (*channels, *call.fixed(window, _KERNEL)), call.fixed(call.shapes[0][-1], _KERNEL))


def col2im(call: Call) -> Result:
    """Sum overlapping patches, given as columns, into an image.

    Args:
        call: ``col2im(self, output_size, kernel_size, ...)``.

    Returns:
        The axes of the result.
    """
    *lead, columns, positions = call.tensor("self")
    window = prod(call.arguments["kernel_size"])
    channels, inside = call.reshape([columns], [length(columns) // window, window])
    call.observe((*lead, channels))
    call.freeze(inside, _KERNEL)
    call.freeze(positions, _KERNEL)
    return (*lead, channels, *(call.fixed(size, _KERNEL) for size in call.shapes[0][-2:]))


_CONVOLUTIONS = (
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
)

RULES: dict[str, Rule] = {
    **{f"aten.{name}": convolution for name in _CONVOLUTIONS},
    **{f"aten.{name}": grid_sample for name in ("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")},
    "aten.channel_shuffle": channel_shuffle,
    "aten.native_channel_shuffle": channel_shuffle,
    "aten.col2im": col2im,
    "aten.im2col": im2col,
    "aten.pixel_shuffle": pixel_shuffle,
    "aten.pixel_unshuffle": pixel_unshuffle,
}

_REARRANGEMENTS = ("pixel_shuffle", "pixel_unshuffle", "im2col", "col2im", "channel_shuffle", "native_channel_shuffle")
SIGHTS: Sights = {f"aten.{name}": Sight.LINEAR for name in (*_CONVOLUTIONS, *_REARRANGEMENTS)}


@final
class ConvolutionRules(OperatorRules):
    """Rules for convolutions and for rearrangements of channels and positions."""

    name = "convolution"
    rules = RULES
    sights = SIGHTS
