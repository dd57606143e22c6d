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
