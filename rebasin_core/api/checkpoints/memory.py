"""Memory of an alignment of two checkpoints, in addition to mapped files."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from rebasin_core.bilinear.pieces import MAX_ENTRIES
from rebasin_core.bilinear.two_levels import nested_directly
from rebasin_core.errors import InvalidInputError
from rebasin_core.matchers.channel import AbstractChannelMatcher

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.matchers.base import Matcher
    from rebasin_core.symmetry.layout import Layout

_FLOAT = 4
# Slices of both networks: as they are, widened, permuted, and as matrices of units.
_SLICES = 8
# Interpreter and libraries.
_PROCESS = 400 * 10**6
# Similarity matrix of a group, that of its nested groups, and the copy of the assignment solver.
_MATRICES = 3


def memory_needed(layout: Layout, tensors: Mapping[str, Tensor]) -> int:
    """Return the memory that the alignment of two checkpoints needs at least, in addition to mapped files.

    Args:
        layout: The groups.
        tensors: Tensors of one of the networks.

    Returns:
        An estimate in bytes: the process, matrices of the largest group, and slices of the largest tensor or one
        permuted copy of it.
    """
    matrices = max((_entries(layout, name) for name in layout.groups), default=0) * _FLOAT * _MATRICES
    largest = max((tensor.numel() * tensor.element_size() for tensor in tensors.values()), default=0)
    entries = max((tensor.numel() for tensor in tensors.values()), default=0)
    slices = _SLICES * _FLOAT * min(entries, MAX_ENTRIES)
    return _PROCESS + max(matrices + slices, 2 * largest)


def within_memory(matcher: Matcher, memory: int | None, layout: Layout, tensors: Mapping[str, Tensor]) -> Matcher:
    """Return a matcher that does not use more than the given memory.

    Args:
        matcher: The matcher.
        memory: Maximum number of bytes in addition to mapped files; unlimited if None.
        layout: The groups.
        tensors: Tensors of one of the networks.

    Returns:
        The matcher; it recomputes the similarity matrices for which there is no memory.

    Raises:
        InvalidInputError: If the memory is not sufficient, or the matcher's memory cannot be limited.
    """
    if memory is None:
        return matcher
    needed = memory_needed(layout, tensors)
    if needed > memory:
        message = (
            f"the alignment needs about {needed / 1e9:.1f} GB in addition to mapped files, and {memory / 1e9:.1f} GB "
            "are allowed; allow more, or freeze the largest groups"
        )
        raise InvalidInputError(message)
    if not isinstance(matcher, AbstractChannelMatcher):
        message = f"the memory of the matcher {matcher.name!r} cannot be limited; use `weight`, or give no limit"
        raise InvalidInputError(message)
    return matcher.replace(memory=memory - needed)


def _entries(layout: Layout, name: str) -> int:
    """Return the entries of the similarity matrices of a group, or of all pairs of units of the groups nested in it."""
    shape = layout.index_shape(name)
    inner = nested_directly(layout, name)
    # All units within one unit of the outer groups are compared with each other.
    units = (prod(layout.index_shape(child)) for child in inner)
    pairs = sum(number**2 // prod(shape[:-1]) for number in units)
    return max(prod(shape) * shape[-1], pairs)
