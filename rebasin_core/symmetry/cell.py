"""Cells: the pieces of a tensor on which every dimension is one atom.

Reshaping removes products and splitting removes concatenations, until only atoms remain. Functions that permute or
compare tensors work on cells, and need not handle products or concatenations.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, final

import torch

from rebasin_core.symmetry.axis import Atom, Axis, Concat, factors_of, is_fixed

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


@final
class Gather(NamedTuple):
    """A permutation of a tensor that is seen as ``[..., size, inner]``.

    Attributes:
        axis: The permuted axis, or an atom that is one of its factors.
        size: Its length.
        inner: Number of entries after each of its positions.
        dim: Its dimension of the tensor; None if it is a factor, or the tensor has more than two dimensions.
    """

    axis: Axis
    size: int
    inner: int
    dim: int | None


def gathers_of(axes: Sequence[Axis], ancestors: Callable[[str], Sequence[str]]) -> tuple[Gather, ...] | None:
    """Return the gathers that together permute a tensor, at most one for each axis.

    Args:
        axes: The axes of the tensor.
        ancestors: Returns the outer groups of a group.

    Returns:
        The gathers, the slowest varying axis first; None if a nested group and its outer group are on different axes.
    """
    found: list[Gather] = []
    inner = 1
    for dim, axis in reversed([*enumerate(axes)]):
        rows = [[atom.group for atom in row if atom.group is not None] for row in atom_rows([axis])]
        outer = [(row, name) for row in rows for group in row for name in ancestors(group)]
        if any(name not in row for row, name in outer):
            return None
        factors = factors_of(axis)
        moving = [factor for factor in factors if not is_fixed(factor)]
        if len(moving) == 1 and isinstance(moving[0], Atom) and not outer:
            within = prod(factor.size for factor in factors[factors.index(moving[0]) + 1 :])
            found.insert(0, Gather(moving[0], moving[0].size, within * inner, dim if len(factors) == 1 else None))
        elif moving:
            found.insert(0, Gather(axis, axis.size, inner, dim))
        inner *= axis.size
    if len(axes) > 2 or any(gather.dim is None for gather in found):
        found = [gather._replace(dim=None) for gather in found]
    return tuple(found)


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
