"""Index tensors of permutations: validation, random ones, inverses and compositions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout


def reorder_outer(index: Tensor, outer: list[Tensor]) -> Tensor:
    """Return ``index[outer[0][h0], outer[1][h0, h1], ...]`` over all outer units: reorder the rows of an index.

    Args:
        index: ``[*outer, n]``.
        outer: Indices of the outer groups, the outermost first: ``[n0]``, ``[n0, n1]``, ...

    Returns:
        ``[*outer, n]``.
    """
    # Trailing dimensions of size 1 make the indices broadcast; together they index the leading dimensions.
    rows = [order.reshape(*order.shape, *[1] * (len(outer) - order.dim())) for order in outer]
    return index[tuple(rows)] if rows else index


_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def check_index(name: str, index: Tensor, shape: tuple[int, ...]) -> None:
    """Raise if an index is not a permutation.

    Args:
        name: The group, for messages.
        index: The index.
        shape: The expected shape.

    Raises:
        InvalidInputError: If the shape differs, or an integer from 0 to n - 1 is missing.
    """
    if index.dtype not in _WHOLE or tuple(index.shape) != shape:
        message = f"group {name!r}: expected integers of shape {shape}, got {index.dtype} of shape {tuple(index.shape)}"
        raise InvalidInputError(message)
    if not torch.equal(index.sort(-1).values.cpu(), torch.arange(shape[-1]).expand(shape)):
        message = f"group {name!r}: expected each integer from 0 to {shape[-1] - 1} exactly once"
        raise InvalidInputError(message)


def random_indices(layout: Layout, generator: torch.Generator) -> dict[str, Tensor]:
    """Return a uniformly random index for every group.

    Args:
        layout: The groups.
        generator: The source of randomness.

    Returns:
        Indices on the CPU.
    """
    shapes = {name: layout.index_shape(name) for name in layout.groups}
    # Sorting uniform noise yields a uniformly random permutation.
    noise = {n: torch.rand(shape, generator=generator, device=generator.device) for n, shape in shapes.items()}
    return {name: tensor.argsort(-1).cpu() for name, tensor in noise.items()}


def inverse_indices(layout: Layout, indices: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the indices of the inverse permutation.

    Args:
        layout: The groups.
        indices: The index of every group.

    Returns:
        The inverse indices.
    """
    inverse: dict[str, Tensor] = {}
    for name in layout.outer_first:
        # Old unit h has the new index back[h]; the inner permutation at that index is the one to invert for h.
        inner = indices[name].argsort(-1)
        inverse[name] = reorder_outer(inner, [inverse[outer] for outer in layout.ancestors(name)])
    return inverse


def composed_indices(layout: Layout, first: Mapping[str, Tensor], then: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the indices of the composition of two permutations.

    Args:
        layout: The groups.
        first: The indices of the permutation that is applied first.
        then: The indices of the second.

    Returns:
        ``first[name][then[name]]`` for every group.
    """
    composed: dict[str, Tensor] = {}
    for name, index in first.items():
        outer = [then[group].to(index.device) for group in layout.ancestors(name)]
        composed[name] = reorder_outer(index, outer).gather(-1, then[name].to(index.device))
    return composed
