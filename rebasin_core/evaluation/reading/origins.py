"""What tensors that do not depend on a model's inputs are made of: which axes of which parameters run along them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


NamedAxis: TypeAlias = "tuple[str, int]"
"""The name of a parameter or buffer, and the number of one of its axes."""
Axes: TypeAlias = "tuple[frozenset[NamedAxis], ...]"


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """What a tensor that does not depend on the inputs is made of.

    Attributes:
        axes: For every dimension, the axes of parameters and buffers that run along it.
        names: All parameters and buffers that it is made of; none for a constant.
        source: The one whose values it holds, all of them, perhaps with axes in another order; None if it is another
            function of its parameters.
        order: With a source, the number of the source's axis for every dimension; None for a new one of length 1.
        summed: Axes that were summed over between two of the parameters.
        how: For messages: what was done to the parameters.
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
        """Return the origin of a parameter or buffer itself.

        Args:
            name: Its name.
            tensor: The tensor.

        Returns:
            The origin.
        """
        return _whole(name, tensor.dim())

    @classmethod
    def constant(cls, tensor: Tensor) -> Origin:
        """Return the origin of a tensor that is made of no parameter.

        Args:
            tensor: The tensor.

        Returns:
            The origin.
        """
        return cls((frozenset(),) * tensor.dim())


@lru_cache(maxsize=4096)
def _whole(name: str, rank: int) -> Origin:
    axes = tuple(frozenset({(name, number)}) for number in range(rank))
    return Origin(axes, frozenset({name}), name, tuple(range(rank)))


def shares_memory(first: Tensor, second: Tensor) -> bool:
    """Return whether two tensors are views of the same memory.

    Args:
        first: A tensor.
        second: Another one.

    Returns:
        Whether they are.
    """
    if not first.numel() or not second.numel():
        return False
    return first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()


def covered_dims(before: Tensor, after: Tensor) -> list[list[int]]:
    """Return, for every dimension of a view, the dimensions of the viewed tensor that it runs along.

    Args:
        before: The tensor.
        after: A view of it.

    Returns:
        Numbers of dimensions; none where the view has length 1 or repeats values.
    """
    dims = sorted((d for d in range(before.dim()) if before.shape[d] > 1 and before.stride(d)), key=before.stride)
    strides = [before.stride(d) for d in dims]
    # The step along a dimension that leaves its position as it was: to the next dimension that is farther apart.
    periods = [larger for _, larger in pairwise(strides)]
    if dims:
        periods.append(strides[-1] * before.shape[dims[-1]])
    found: list[list[int]] = []
    for size, step in zip(after.shape, after.stride(), strict=True):
        reach = step * (size - 1)
        moved = [
            d for d, stride, period in zip(dims, strides, periods, strict=True) if stride <= reach and step % period
        ]
        found.append(moved)
    return found


def is_rearranged(before: Tensor, after: Tensor, covered: Sequence[Sequence[int]]) -> bool:
    """Return whether a view holds all entries once, with its dimensions in another order.

    Args:
        before: The tensor.
        after: A view of it.
        covered: As from `covered_dims`.

    Returns:
        Whether it does.
    """
    if before.numel() != after.numel():
        return False
    long = [(size, dims) for size, dims in zip(after.shape, covered, strict=True) if size > 1]
    return all(len(dims) == 1 and before.shape[dims[0]] == size for size, dims in long)


def viewed(origin: Origin, before: Tensor, after: Tensor) -> Origin:
    """Return the origin of a view.

    Args:
        origin: Of the tensor.
        before: The tensor.
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
    # Which dimension of length 1 is which axis of length 1 makes no difference.
    for number in sorted({number for number in origin.order if number is not None} - set(order)):
        if None in order:
            order[order.index(None)] = number
    held = tuple(frozenset() if number is None else frozenset({(origin.source, number)}) for number in order)
    return Origin(held, origin.names, origin.source, tuple(order))
