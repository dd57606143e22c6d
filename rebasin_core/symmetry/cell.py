"""Cells: the pieces of a tensor on which every dimension is one atom.

Products are opened by reshaping and concatenations by splitting, until only atoms are left. Everything that acts on a
tensor (permuting it, comparing two of them) is written for cells and does not know about products or concatenations.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, TypeAlias

import torch

from rebasin_core.symmetry.axis import Atom, Axis, Concat, factors_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

Cell: TypeAlias = "tuple[Tensor, tuple[Atom, ...]]"
"""A view of a tensor and the axis of each of its dimensions, none of which is a product or concatenation."""


def cells(tensor: Tensor, axes: Sequence[Axis]) -> Iterator[Cell]:
    """Yield the cells of a tensor.

    Args:
        tensor: ``[*lead, *sizes]`` with one size an axis.
        axes: The axes of the trailing dimensions.

    Yields:
        A view ``[*lead, *atom sizes]`` where possible, and its atoms.
    """
    atoms = tuple(axis for axis in axes if isinstance(axis, Atom))
    if len(atoms) == len(axes):
        yield tensor, atoms
        return
    lead = tensor.shape[: tensor.dim() - len(axes)]
    factors = _factors(axes)
    tensor = tensor.reshape((*lead, *(factor.size for factor in factors)))
    place = _first_concat(factors)
    if place is None:
        yield tensor, tuple(factor for factor in factors if isinstance(factor, Atom))
        return
    for part, inner in _split(tensor, factors, place):
        yield from cells(part, inner)


def map_cells(
    tensor: Tensor,
    axes: Sequence[Axis],
    function: Callable[[Tensor, tuple[Atom, ...]], Tensor],
    *,
    becoming: Sequence[Axis] | None = None,
) -> Tensor:
    """Return the tensor with a function applied to each of its cells.

    Args:
        tensor: ``[*lead, *sizes]`` with one size an axis.
        axes: The axes of the trailing dimensions.
        function: Takes a cell's tensor and its atoms, returns the tensor that takes its place.
        becoming: The axes of the result, of the same form, if the function changes the sizes of atoms.

    Returns:
        A tensor of the sizes of ``becoming``, or of the same shape.
    """
    becoming = axes if becoming is None else becoming
    lead = tensor.shape[: tensor.dim() - len(axes)]
    factors = _factors(axes)
    opened = tensor.reshape((*lead, *(factor.size for factor in factors)))
    place = _first_concat(factors)
    if place is None:
        result = function(opened, tuple(factor for factor in factors if isinstance(factor, Atom)))
    else:
        split = zip(_split(opened, factors, place), _inner(_factors(becoming), place), strict=True)
        parts = [map_cells(part, inner, function, becoming=target) for (part, inner), target in split]
        result = torch.cat(parts, dim=len(lead) + place)
    return result.reshape((*lead, *(axis.size for axis in becoming)))


def atom_rows(axes: Sequence[Axis]) -> Iterator[tuple[Atom, ...]]:
    """Yield the atoms of each cell that tensors with these axes have, without a tensor.

    Args:
        axes: The axes of one tensor.

    Yields:
        The atoms, one a dimension of the cell.
    """
    factors = _factors(axes)
    place = _first_concat(factors)
    if place is None:
        yield tuple(factor for factor in factors if isinstance(factor, Atom))
        return
    for inner in _inner(factors, place):
        yield from atom_rows(inner)


def count_cells(axes: Sequence[Axis]) -> int:
    """Return the number of cells that tensors with these axes have.

    Args:
        axes: The axes of one tensor.

    Returns:
        The product, over all axes and their factors, of the numbers of parts that they concatenate.
    """
    return prod(
        sum(count_cells([part]) for part in factor.parts) for factor in _factors(axes) if isinstance(factor, Concat)
    )


def _factors(axes: Sequence[Axis]) -> list[Axis]:
    return [factor for axis in axes for factor in factors_of(axis)]


def _first_concat(factors: Sequence[Axis]) -> int | None:
    return next((i for i, factor in enumerate(factors) if isinstance(factor, Concat)), None)


def _split(tensor: Tensor, factors: list[Axis], place: int) -> Iterator[tuple[Tensor, list[Axis]]]:
    inner = list(_inner(factors, place))
    dim = tensor.dim() - len(factors) + place
    pieces = tensor.split([axes[place].size for axes in inner], dim=dim)
    yield from zip(pieces, inner, strict=True)


def _inner(factors: list[Axis], place: int) -> Iterator[list[Axis]]:
    """Yield the axes of each part of a concatenation."""
    found = factors[place]
    for part in found.parts if isinstance(found, Concat) else ():
        yield [*factors[:place], part, *factors[place + 1 :]]
