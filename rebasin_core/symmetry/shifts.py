"""Shifts of biases by flips of units, and the coordinates in which flips are signs."""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING, Final

import torch

from rebasin_core.errors import InvalidInputError, SpecError, nearest
from rebasin_core.symmetry.kind import Kind, Shift, Slot
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout

_TYPES: Final = [str, int, str, float, float]


def shifts_of_json(rows: object) -> tuple[Shift, ...] | None:
    """Return the shifts for JSON rows of the fields of `Shift`; None if they have another structure.

    Args:
        rows: The parsed JSON.

    Returns:
        The shifts.

    Raises:
        SpecError: If a constant or slope is zero or not finite.
    """
    if not isinstance(rows, list) or not all(isinstance(row, list) and [*map(type, row)] == _TYPES for row in rows):
        return None
    return tuple(starmap(Shift, rows))


def check_shifts_of_kind(group: str, kind: Kind, shifts: Collection[object]) -> None:
    """Raise if a linear symmetry has no shifts though its kind requires them, or the reverse.

    Args:
        group: Name of the group.
        kind: The kind of the linear symmetry.
        shifts: Its shifts.

    Raises:
        SpecError: If only one of the two is given, or a shift is of another type.
    """
    if bool(shifts) != (kind is Kind.FLIP) or not all(isinstance(shift, Shift) for shift in shifts):
        expected = "values of `Shift` for the next biases" if kind is Kind.FLIP else "no shifts"
        message = f"group {shown(group)}: expected {expected} for maps of kind {kind}, got {shown([*shifts])}"
        raise SpecError(message)


def check_shifts(layout: Layout, group: str, shifts: Iterable[Shift], degrees: Mapping[Slot, int]) -> None:
    """Raise if the shifts of flips do not fit a layout.

    Args:
        layout: The groups and axes.
        group: Name of the group whose units are flipped.
        shifts: The shifts.
        degrees: The degree of every slot that flips.

    Raises:
        SpecError: If a tensor does not exist, a bias does not have the axis of its weight, or no unit of a weight
            flips.
    """
    for shift in shifts:
        where = f"the flips of group {shown(group)}"
        for name in (shift.weight, shift.bias):
            if name not in layout.axes:
                message = f"{where}: a shift names the tensor {shown(name)}; {nearest(name, layout.axes)}"
                raise SpecError(message)
        stacked = sorted({shift.weight, shift.bias} & layout.stacks.keys())
        if stacked:
            message = f"{where}: shifts of tensors that belong to a stack are not supported, got {shown(stacked[0])}"
            raise SpecError(message)
        weight, bias = layout.axes[shift.weight], layout.axes[shift.bias]
        if not 0 <= shift.dim < len(weight) or bias != (weight[shift.dim],):
            message = (
                f"{where}: expected the bias {shown(shift.bias)} to have one axis, that of dimension {shift.dim} of "
                f"{shown(shift.weight)}"
            )
            raise SpecError(message)
        if not any(slot.tensor == shift.weight and slot.dim != shift.dim for slot in degrees):
            message = (
                f"{where}: expected units that flip along another dimension of {shown(shift.weight)} than "
                f"{shift.dim}, which its bias {shown(shift.bias)} has"
            )
            raise SpecError(message)


def check_shifts_together(shifts: Collection[Shift], others: Iterable[tuple[Kind, Slot]]) -> None:
    """Raise if the centered coordinates of several families of flips are not defined, or other maps do not keep them.

    Args:
        shifts: All shifts, without repetition.
        others: The slots that maps of other kinds transform.

    Raises:
        SpecError: If a tensor is a weight and a bias, has two constants, or its flipped units admit other maps.
    """
    biases = {shift.bias for shift in shifts}
    pairs = [(shift.weight, shift.bias) for shift in shifts]
    for shift in shifts:
        if shift.weight in biases or pairs.count((shift.weight, shift.bias)) > 1:
            message = (
                f"expected one shift of the bias {shown(shift.bias)} by {shown(shift.weight)}, and no weight that is a "
                "bias of another shift"
            )
            raise SpecError(message)
    dims = {shift.weight: shift.dim for shift in shifts}
    for kind, slot in others:
        if slot.dim != dims.get(slot.tensor, slot.dim):
            message = (
                f"{shown(slot)} is transformed by maps of kind {kind} and summed over by flips: expected flips only at "
                "units that are an odd function plus a constant"
            )
            raise SpecError(message)


def shift_values(layout: Layout, shifts: Iterable[Shift], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Return the shifts $\tfrac c2 V e$ of biases to centered coordinates.

    Args:
        layout: The groups and axes.
        shifts: The shifts.
        tensors: Tensors by their names in the layout, each ``[*lead, *s]``: of a network, or deviations. Shifts by
            weights that are missing are omitted.

    Returns:
        ``[*lead, n]`` by the names of biases, in double precision.
    """
    found: dict[str, Tensor] = {}
    for shift in shifts:
        weight = tensors.get(shift.weight)
        if weight is None:
            continue
        wide = weight.to(torch.complex128 if weight.is_complex() else torch.float64)
        rank = len(layout.axes[shift.weight])
        own = wide.sum([dim - rank for dim in range(rank) if dim != shift.dim]) * (shift.constant / 2)
        found[shift.bias] = found[shift.bias] + own if shift.bias in found else own
    return found


def require_weights(shifts: Iterable[Shift], tensors: Collection[str]) -> None:
    """Raise if tensors contain a bias without a weight whose flipped units shift it.

    Args:
        shifts: The shifts.
        tensors: The names of the tensors.

    Raises:
        InvalidInputError: If there is such a bias.
    """
    for shift in shifts:
        if shift.bias in tensors and shift.weight not in tensors:
            message = (
                f"expected `{shift.weight}` together with `{shift.bias}`, got only the bias, to which flips add "
                "entries of the weight"
            )
            raise InvalidInputError(message)
