"""Cells: the pieces of a tensor on which every dimension is one atom.

Reshaping removes products and splitting removes concatenations, until only atoms remain. Functions that permute or
compare tensors work on cells, and need not handle products or concatenations.
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
        tensor: ``[*lead, *sizes]`` with one size per axis.
        axes: The axes of the trailing dimensions.

    Yields:
        A tensor ``[*lead, *atom sizes]``, a view if possible, and its atoms.
    """
    atoms = tuple(axis for axis in axes if isinstance(axis, Atom))
    if len(atoms) == len(axes):
        yield tensor, atoms
        return
    lead = tensor.shape[: tensor.dim() - len(axes)]
    factors = _factors(axes)
    tensor = tensor.reshape((*lead, *(factor.size for factor in factors)))
    position = _first_concat(factors)
    if position is None:
        yield tensor, tuple(factor for factor in factors if isinstance(factor, Atom))
        return
    for part, inner in _split(tensor, factors, position):
        yield from cells(part, inner)


def map_cells(
    tensor: Tensor,
    axes: Sequence[Axis],
    function: Callable[[Tensor, tuple[Atom, ...]], Tensor],
    *,
    becoming: Sequence[Axis] | None = None,
) -> Tensor:
    """Apply a function to each cell of a tensor.

    Args:
        tensor: ``[*lead, *sizes]`` with one size per axis.
        axes: The axes of the trailing dimensions.
        function: Maps the tensor of a cell and its atoms to the new tensor of the cell.
        becoming: The axes of the result, with the same structure, if the function changes the sizes of atoms.

    Returns:
        A tensor with the sizes of ``becoming``; with the same shape if None.
    """
    becoming = axes if becoming is None else becoming
    lead = tensor.shape[: tensor.dim() - len(axes)]
    factors = _factors(axes)
    opened = tensor.reshape((*lead, *(factor.size for factor in factors)))
    position = _first_concat(factors)
    if position is None:
        result = function(opened, tuple(factor for factor in factors if isinstance(factor, Atom)))
    else:
        split = zip(_split(opened, factors, position), _inner(_factors(becoming), position), strict=True)
        parts = [map_cells(part, inner, function, becoming=target) for (part, inner), target in split]
        result = torch.cat(parts, dim=len(lead) + position)
    return result.reshape((*lead, *(axis.size for axis in becoming)))


def atom_rows(axes: Sequence[Axis]) -> Iterator[tuple[Atom, ...]]:
    """Yield the atoms of each cell of a tensor with these axes.

    Args:
        axes: The axes of one tensor.

    Yields:
        The atoms, one per dimension of the cell.
    """
    factors = _factors(axes)
    position = _first_concat(factors)
    if position is None:
        yield tuple(factor for factor in factors if isinstance(factor, Atom))
        return
    for inner in _inner(factors, position):
        yield from atom_rows(inner)


def count_cells(axes: Sequence[Axis]) -> int:
    """Return the number of cells of a tensor with these axes.

    Args:
        axes: The axes of one tensor.

    Returns:
        The product over all factors of the axes that are concatenations, of the number of cells of their parts.
    """
    return prod(
        sum(count_cells([part]) for part in factor.parts) for factor in _factors(axes) if isinstance(factor, Concat)
    )


def _factors(axes: Sequence[Axis]) -> list[Axis]:
    return [factor for axis in axes for factor in factors_of(axis)]


def _first_concat(factors: Sequence[Axis]) -> int | None:
    return next((i for i, factor in enumerate(factors) if isinstance(factor, Concat)), None)


def _split(tensor: Tensor, factors: list[Axis], position: int) -> Iterator[tuple[Tensor, list[Axis]]]:
    inner = list(_inner(factors, position))
    dim = tensor.dim() - len(factors) + position
    pieces = tensor.split([axes[position].size for axes in inner], dim=dim)
    yield from zip(pieces, inner, strict=True)


def _inner(factors: list[Axis], position: int) -> Iterator[list[Axis]]:
    """Yield the axes of each part of a concatenation."""
    found = factors[position]
    for part in found.parts if isinstance(found, Concat) else ():
        yield [*factors[:position], part, *factors[position + 1 :]]
