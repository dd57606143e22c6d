"""What two posteriors must have in common before something is computed from both."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.checks import require_same_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior

Q = TypeVar("Q", bound="Posterior")


def require_pair(first: Q, second: Posterior, t: float = 0.0) -> Q:
    """Return the second posterior, known to be of the kind of the first.

    Args:
        first: A posterior.
        second: Another one.
        t: A place on a path, which must lie in [0, 1].

    Returns:
        ``second``.

    Raises:
        InvalidInputError: If kinds, names or shapes differ, or ``t`` is out of range.
    """
    if not 0.0 <= t <= 1.0:
        message = f"expected a place on the path in [0, 1], got {t!r}"
        raise InvalidInputError(message)
    if not isinstance(second, type(first)):
        message = f"expected two posteriors of kind {first.kind!r}, got {first.kind!r} and {second.kind!r}"
        raise InvalidInputError(message)
    require_same_tensors(first.mean, second.mean, "the second posterior")
    one, other = (set(getattr(posterior, "random_names", ())) for posterior in (first, second))
    if one != other:
        message = f"expected the same random parameters in both posteriors, got {sorted(one ^ other)} in one only"
        raise InvalidInputError(message)
    require_same_tensors(first.buffers, second.buffers, "the buffers of the second posterior")
    return second


def require_same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that do not have the names and shapes of others.

    Args:
        first: The tensors that set the names and shapes.
        second: The tensors to look at.
        what: What they are, for the message.

    Raises:
        InvalidInputError: If names or shapes differ.
    """
    require_same_names(first, second, what)
    for name, tensor in first.items():
        if tensor.shape != second[name].shape:
            message = f"{what}: `{name}` has shape {tuple(second[name].shape)}, expected {tuple(tensor.shape)}"
            raise InvalidInputError(message)


def normalised_weights(weights: Tensor, count: int) -> Tensor:
    """Return weights that sum to one.

    Args:
        weights: ``[K]``, not negative, not all zero.
        count: The number K.

    Returns:
        The weights over their sum.

    Raises:
        InvalidInputError: If they are not weights.
    """
    if tuple(weights.shape) != (count,) or not bool((weights >= 0).all()) or not weights.sum().item() > 0:
        message = f"expected {count} weights, none negative and not all zero, got {weights}"
        raise InvalidInputError(message)
    return weights / weights.sum()


def require_spread(stddev: Mapping[str, Tensor], what: str) -> None:
    """Refuse standard deviations below zero.

    Args:
        stddev: By parameter name.
        what: What they are, for the message.

    Raises:
        InvalidInputError: If an entry is negative.
    """
    for name, tensor in stddev.items():
        lowest = tensor.min().item() if tensor.numel() else 0.0
        if lowest < 0:
            message = (
                f"{what} of `{name}` goes down to {lowest:.3g}; expected no negative entry. "
                "Give standard deviations, not logarithms or unconstrained values"
            )
            raise InvalidInputError(message)


def blend(first: Mapping[str, Tensor], second: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    """Return the tensors at a place on the straight line between two ends.

    Args:
        first: The tensors at 0.
        second: The tensors at 1, of the same names and shapes.
        t: In [0, 1].

    Returns:
        New tensors.
    """
    return {name: torch.lerp(tensor, second[name].to(tensor), t) for name, tensor in first.items()}


def blend_buffers(first: Mapping[str, Tensor], second: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    """Return the buffers at a place between two ends.

    Args:
        first: The buffers at 0.
        second: The buffers at 1.
        t: In [0, 1].

    Returns:
        Floating buffers are interpolated linearly (normalisation statistics may need a reset afterwards); integer
        buffers are taken from the nearer end.
    """
    return {
        name: torch.lerp(a, second[name].to(a), t)
        if a.is_floating_point()
        else (a if t <= 0.5 else second[name]).clone()  # ruff: ignore[magic-value-comparison]
        for name, a in first.items()
    }
