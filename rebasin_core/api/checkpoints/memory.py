"""Memory of an alignment of two checkpoints, in addition to mapped files, or on a device."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from rebasin_core.bilinear.pair_products import entries_of_pairs
from rebasin_core.bilinear.pieces import MAX_ENTRIES
from rebasin_core.errors import InvalidInputError
from rebasin_core.matchers.channel import AbstractChannelMatcher
from rebasin_core.tensors.device import CPU
from rebasin_core.tensors.memory import total_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import Tensor

    from rebasin_core.matchers.base import Matcher
    from rebasin_core.symmetry.layout import Layout

_FLOAT = 4
# Slices of both networks: as they are, widened, permuted, and as matrices of units.
_SLICES = 8
# Interpreter and libraries.
_PROCESS = 400 * 10**6
# Reference, candidate, permuted candidate, midpoint, and intermediate results of their evaluation.
_NETWORKS = 5
# Share of the memory of a device that is used if no limit is given.
_SHARE = 0.8
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


def fits_on(device: torch.device, memory: int | None, layout: Layout, tensors: Mapping[str, Tensor]) -> bool:
    """Return whether whole networks fit into the memory of a device, with all that is computed from them.

    Args:
        device: The device.
        memory: Maximum number of bytes on the device; 80% of its memory if None.
        layout: The groups.
        tensors: Tensors of one of the networks.

    Returns:
        Whether five networks (both, the permuted candidate, the midpoint, and intermediate results) fit, and all
        similarity matrices. False for the CPU, to which tensors are mapped.
    """
    if device.type == "cpu":
        return False
    networks = _NETWORKS * sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    limit = _limit(device) if memory is None else memory
    return networks + _all_matrices(layout) + memory_needed(layout, tensors) <= limit


def within_memory(
    matcher: Matcher,
    memory: int | None,
    layout: Layout,
    tensors: Mapping[str, Tensor],
    device: torch.device = CPU,
    *,
    copied: int = 0,
) -> Matcher:
    """Return a matcher that does not use more than the given memory.

    Args:
        matcher: The matcher.
        memory: Maximum number of bytes, in addition to mapped files, and on the device. If None, unlimited on the CPU,
            and 80% of the memory of other devices.
        layout: The groups.
        tensors: Tensors of one of the networks.
        device: Device of the similarity matrices.
        copied: Size of the tensors of both networks that are not mapped, because files store them in another form.

    Returns:
        The matcher; it recomputes the similarity matrices for which there is no memory.

    Raises:
        InvalidInputError: If the memory is not sufficient, or the matcher's memory cannot be limited.
    """
    needed = memory_needed(layout, tensors) + copied
    if memory is None:
        # The memory of a device, unlike its free memory, is the same when an interrupted command continues.
        limit = _limit(device)
        if device.type == "cpu" or needed + _all_matrices(layout) <= limit:
            return matcher
        memory = limit
    if needed > memory:
        message = (
            f"the alignment needs about {needed / 1e9:.1f} GB in addition to mapped files, and {memory / 1e9:.1f} GB "
            "are allowed; allow more, or freeze the largest groups"
        )
        raise InvalidInputError(message)
    if not isinstance(matcher, AbstractChannelMatcher) or not matcher.uses_slices:
        is_symmetric = isinstance(matcher, AbstractChannelMatcher)
        remedy = 'align modulo permutations (`symmetry="permutation"`)' if is_symmetric else "use `weight`"
        message = f"the memory of the matcher {matcher.name!r} cannot be limited; {remedy}, or give no limit"
        raise InvalidInputError(message)
    return matcher.replace(memory=memory - needed)


def _limit(device: torch.device) -> int:
    return round(_SHARE * total_memory(device))


def _all_matrices(layout: Layout) -> int:
    return 2 * _FLOAT * sum(_entries(layout, name) for name in layout.groups)


def _entries(layout: Layout, name: str) -> int:
    """Return the entries of the similarity matrices of a group, or of all pairs of units of the groups nested in it."""
    shape = layout.index_shape(name)
    return max(prod(shape) * shape[-1], entries_of_pairs(layout, name))
