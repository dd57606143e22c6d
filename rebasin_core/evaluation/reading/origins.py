"""Origins of tensors that do not depend on the model's inputs: the axes of parameters along each dimension."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


NamedAxis: TypeAlias = "tuple[str, int]"
"""Name of a parameter or buffer, and index of one of its axes."""
Axes: TypeAlias = "tuple[frozenset[NamedAxis], ...]"


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """Parameters and buffers from which a tensor is computed that does not depend on the inputs.

    Attributes:
        axes: For each dimension, the axes of parameters and buffers along it.
        names: All parameters and buffers from which it is computed; empty for a constant.
        source: The parameter or buffer, if the tensor holds exactly its values, possibly with permuted axes; else None.
        order: If there is a source, its axis along each dimension; None for a new dimension of length 1.
        summed: Axes that were summed over in products of two parameters.
        how: How the tensor is computed from the parameters, for messages.
        is_known: Whether the axes are known.
    """

    axes: Axes
    names: frozenset[str] = frozenset()
    source: str | None = None
    order: tuple[int | None, ...] = ()
    summed: frozenset[NamedAxis] = field(default_factory=frozenset)
    how: str = ""
    is_known: bool = True

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Origin:
        """Return the origin of a parameter or buffer.

        Args:
            name: Name of the parameter or buffer.
            tensor: The tensor.

        Returns:
            The origin.
        """
        return _whole(name, tensor.dim())

    @classmethod
    def constant(cls, tensor: Tensor) -> Origin:
        """Return the origin of a constant.

        Args:
            tensor: The tensor.

        Returns:
            The origin.
        """
        return cls((frozenset(),) * tensor.dim())


@lru_cache(maxsize=4096)
def _whole(name: str, rank: int) -> Origin:
    axes = tuple(frozenset({(name, index)}) for index in range(rank))
    return Origin(axes, frozenset({name}), name, tuple(range(rank)))


def shares_memory(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors share their storage.

    Args:
        first: A tensor.
        second: Another tensor.

    Returns:
        Whether they share it; False for empty tensors.
    """
    if not first.numel() or not second.numel():
        return False
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def covered_dims(before: Tensor, after: Tensor) -> list[list[int]]:
    """Return, for each dimension of a view, the dimensions of the base tensor that it covers.

    Args:
        before: The base tensor.
        after: A view of it.

    Returns:
        Lists of dimensions; empty where the view has length 1 or is expanded.
    """
    dims = sorted((d for d in range(before.dim()) if before.shape[d] > 1 and before.stride(d)), key=before.stride)
    strides = [before.stride(d) for d in dims]
    # A step by the next larger stride leaves the index along a dimension unchanged.
    periods = [larger for _, larger in pairwise(strides)]
    if dims:
        periods.append(strides[-1] * before.shape[dims[-1]])
    covered: list[list[int]] = []
    for size, step in zip(after.shape, after.stride(), strict=True):
        reach = step * (size - 1)
        along = [
            d for d, stride, period in zip(dims, strides, periods, strict=True) if stride <= reach and step % period
        ]
        covered.append(along)
    return covered


def is_rearranged(before: Tensor, after: Tensor, covered: Sequence[Sequence[int]]) -> bool:
    """Return whether a view is the base tensor with permuted dimensions, up to dimensions of length 1.

    Args:
        before: The base tensor.
        after: A view of it.
        covered: As from `covered_dims`.

    Returns:
        Whether it is.
    """
    if before.numel() != after.numel():
        return False
    long = [(size, dims) for size, dims in zip(after.shape, covered, strict=True) if size > 1]
    return all(len(dims) == 1 and before.shape[dims[0]] == size for size, dims in long)


def viewed(origin: Origin, before: Tensor, after: Tensor) -> Origin:
    """Return the origin of a view.

    Args:
        origin: Origin of the base tensor.
        before: The base tensor.
        after: A view of it.

    Returns:
        The origin of the view.
    """
    covered = covered_dims(before, after)
    axes = tuple(frozenset[NamedAxis]().union(*(origin.axes[dim] for dim in dims)) for dims in covered)
    if origin.source is None:
        return Origin(axes, origin.names, None, (), origin.summed, origin.how, origin.is_known)
    if not is_rearranged(before, after, covered):
        how = "in parts" if after.numel() < before.numel() else "reshaped"
        return Origin(axes, origin.names, None, (), origin.summed, how)
    order = [origin.order[dims[0]] if dims else None for dims in covered]
    # Axes of length 1 may be assigned to any dimensions of length 1.
    for index in sorted({index for index in origin.order if index is not None} - set(order)):
        if None in order:
            order[order.index(None)] = index
    axes = tuple(frozenset() if index is None else frozenset({(origin.source, index)}) for index in order)
    return Origin(axes, origin.names, origin.source, tuple(order))
