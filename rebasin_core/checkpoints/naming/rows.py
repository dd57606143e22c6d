"""Rows that two networks share, where their vocabularies or numbers of classes differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.axis import Atom, is_fixed
from rebasin_core.symmetry.parts import restricted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.checkpoints.naming.vocabulary import Vocabulary
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.tensors.prefixes import Shape


@final
@dataclass(frozen=True, eq=False)
class SharedRows:
    """The positions along one dimension of a tensor that two networks share.

    Attributes:
        dim: The dimension; no group permutes it.
        reference: Positions in the reference, ``[n]``; all different.
        candidate: The corresponding positions in the candidate, ``[n]``; all different.
    """

    dim: int
    reference: Tensor
    candidate: Tensor

    def __len__(self) -> int:
        """Return the number of shared positions."""
        return len(self.reference)

    def of_reference(self, tensor: Tensor) -> Tensor:
        """Return the shared rows of the reference's tensor.

        Args:
            tensor: The tensor of the reference.

        Returns:
            A view if the positions are consecutive, else a copy.
        """
        return _selected(tensor, self.dim, self.reference)

    def of_candidate(self, tensor: Tensor) -> Tensor:
        """Return the shared rows of the candidate's tensor, in the order of the reference's.

        Args:
            tensor: The tensor of the candidate.

        Returns:
            A view if the positions are consecutive, else a copy.
        """
        return _selected(tensor, self.dim, self.candidate)

    def into_reference(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """Return a copy of the reference's tensor with other values in the shared rows.

        Args:
            tensor: The tensor of the reference.
            rows: New values, such as a mean of both networks.

        Returns:
            The copy; rows that only the reference has are unchanged.
        """
        return tensor.index_copy(self.dim, self.reference.to(tensor.device), rows.to(tensor.dtype))

    def into_candidate(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """Return a copy of the candidate's tensor with other values in the shared rows.

        Args:
            tensor: The tensor of the candidate.
            rows: New values, in the order of the reference's rows.

        Returns:
            The copy; rows that only the candidate has are unchanged.
        """
        return tensor.index_copy(self.dim, self.candidate.to(tensor.device), rows.to(tensor.dtype))


def share_rows(
    reference: Mapping[str, Shape],
    candidate: Mapping[str, Shape],
    layout: Layout,
    *,
    vocabularies: Sequence[tuple[Vocabulary, Vocabulary]] = (),
    unnamed: Literal["leading", "none"] = "leading",
) -> dict[str, SharedRows]:
    """Return the shared rows of all tensors in which two networks differ, by tokens or labels where possible.

    The body of both networks is the same, and embeddings and heads have different numbers of rows. To align them, only
    shared rows are compared; each network keeps its own rows. Rows of different vocabularies are shared by token, also
    if the vocabularies have the same size.

    Args:
        reference: Shapes of the reference's tensors by the network's names.
        candidate: Shapes of the candidate's tensors; only tensors that both have are compared.
        layout: The symmetries, with the lengths of either network.
        vocabularies: Pairs of the reference's and the candidate's rows, such as tokens and labels of classes. A pair
            applies to fixed dimensions that have the sizes of the vocabularies, or to those of different length
            that have a row for every token if the sizes are unknown.
        unnamed: Rows of different numbers to which no vocabulary applies: ``leading`` shares the first ones, because
            new tokens are appended; ``none`` shares none.

    Returns:
        The shared rows by tensor, possibly none in number; tensors that are compared completely are not included.

    Raises:
        InvalidInputError: If a tensor differs in a permuted dimension, or in several dimensions.
    """
    found: dict[str, SharedRows] = {}
    for name in layout.axes:
        if name in reference and name in candidate:
            own, other = tuple(reference[name]), tuple(candidate[name])
            fixed = [dim for dim, axis in enumerate(layout.axes[name]) if is_fixed(axis)]
            _require_comparable(name, own, other, fixed)
            shared = list(_shared(own, other, fixed, vocabularies, unnamed))
            if len(shared) > 1:
                message = (
                    f"`{name}`: expected at most one dimension with tokens or of different length, got dimensions "
                    f"{[each.dim for each in shared]} of the shapes {[*own]} and {[*other]}"
                )
                raise InvalidInputError(message)
            if shared:
                found[name] = shared[0]
    return found


def layout_for(layout: Layout, shapes: Mapping[str, Shape]) -> Layout:
    """Return a layout with other lengths of the dimensions that no group permutes.

    Args:
        layout: The symmetries of a network.
        shapes: Shapes by the network's names: those of one of two networks, or those of the shared rows. Tensors that
            are not included keep their lengths.

    Returns:
        The layout of a network with these shapes; its groups are the same.

    Raises:
        InvalidInputError: If the length of a permuted dimension, or the number of dimensions differs.
    """
    axes = dict(layout.axes)
    for name in axes.keys() & shapes.keys():
        shape = tuple(shapes[name])
        if shape != layout.shape(name):
            fixed = [dim for dim, axis in enumerate(axes[name]) if is_fixed(axis)]
            _require_comparable(name, layout.shape(name), shape, fixed)
            axes[name] = tuple(
                Atom(size) if dim in fixed else axis
                for dim, (axis, size) in enumerate(zip(axes[name], shape, strict=True))
            )
    return replace(layout, axes=axes)


def layout_of_shared(layout: Layout, shared: Mapping[str, SharedRows]) -> Layout:
    """Return the layout of the tensors that are compared.

    Args:
        layout: The symmetries.
        shared: The shared rows, by `share_rows`.

    Returns:
        The layout with the numbers of shared rows, without tensors that share none. Its groups are the same, unless
        no other tensor has a group.

    Raises:
        InvalidInputError: If a dimension of shared rows is permuted.
    """
    shapes = {}
    for name, rows in shared.items():
        shape = list(layout.shape(name))
        shape[rows.dim] = len(rows)
        shapes[name] = tuple(shape)
    compared = {name for name in layout.axes if name not in shared or len(shared[name])}
    sized = layout_for(layout, {name: shape for name, shape in shapes.items() if name in compared})
    return restricted(sized, compared)


def _shared(
    own: Shape,
    other: Shape,
    fixed: Sequence[int],
    vocabularies: Sequence[tuple[Vocabulary, Vocabulary]],
    unnamed: Literal["leading", "none"],
) -> Iterator[SharedRows]:
    """Yield the shared rows of every dimension that is not compared completely."""
    for dim in fixed:
        sizes = own[dim], other[dim]
        pair = next((pair for pair in vocabularies if _applies(pair, sizes)), None)
        if pair is not None:
            shared = pair[0].shared_with(pair[1])
            if sizes[0] != sizes[1] or len(shared) < pair[0].num_rows or any(row != to for row, to in shared):
                yield SharedRows(dim, *_columns(shared))
        elif sizes[0] != sizes[1]:
            count = min(sizes) if unnamed == "leading" else 0
            yield SharedRows(dim, torch.arange(count), torch.arange(count))


def _applies(pair: tuple[Vocabulary, Vocabulary], sizes: tuple[int, int]) -> bool:
    """Return whether a vocabulary is that of a dimension with these lengths."""
    for vocabulary, size in zip(pair, sizes, strict=True):
        if size < vocabulary.num_rows or (vocabulary.size is not None and vocabulary.size != size):
            return False
    return sizes[0] != sizes[1] or all(vocabulary.size is not None for vocabulary in pair)


def _columns(pairs: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    columns = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return columns[:, 0].clone(), columns[:, 1].clone()


def _selected(tensor: Tensor, dim: int, rows: Tensor) -> Tensor:
    start = int(rows[0]) if len(rows) else 0
    if torch.equal(rows.cpu(), torch.arange(start, start + len(rows))):
        return tensor.narrow(dim, start, len(rows))
    return tensor.index_select(dim, rows.to(tensor.device))


def _require_comparable(name: str, own: Shape, other: Shape, fixed: Sequence[int]) -> None:
    """Raise if two shapes differ in the number of dimensions, or in a permuted dimension."""
    if len(own) != len(other):
        message = f"`{name}`: expected tensors with the same number of dimensions, got shapes {[*own]} and {[*other]}"
        raise InvalidInputError(message)
    for dim, (size, expected) in enumerate(zip(other, own, strict=True)):
        if size != expected and dim not in fixed:
            message = (
                f"`{name}`: dimension {dim} has {expected} and {size} positions, and the symmetries permute it; "
                "networks of different widths cannot be aligned with these symmetries"
            )
            raise InvalidInputError(message)
