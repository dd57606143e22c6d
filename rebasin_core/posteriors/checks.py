"""The checks that representations and operations on several posteriors share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.base import Posterior
from rebasin_core.tensors.checks import require_same_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def require_posteriors(*given: object) -> None:
    """Raise if an argument is no posterior.

    Args:
        *given: The arguments.

    Raises:
        InvalidInputError: If one of them is something else; names its type.
    """
    for value in given:
        if not isinstance(value, Posterior):
            message = (
                f"expected posteriors, got `{type(value).__qualname__}`; `rebasin_core.as_posterior` converts modules, "
                "state dicts and objects of other libraries"
            )
            raise InvalidInputError(message)


def require_same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor], what: str) -> None:
    """Raise if tensors do not have the names and shapes of others.

    Args:
        first: The tensors that set the names and shapes.
        second: The tensors to check.
        what: A description of ``second``, for the message.

    Raises:
        InvalidInputError: If names or shapes differ.
    """
    require_same_names(first, second, what)
    for name, tensor in first.items():
        if tensor.shape != second[name].shape:
            message = f"{what}: `{name}` has shape {tuple(second[name].shape)}, expected {tuple(tensor.shape)}"
            raise InvalidInputError(message)


def require_nonnegative(stddev: Mapping[str, Tensor], what: str) -> None:
    """Raise if a standard deviation is negative.

    Args:
        stddev: Standard deviations by parameter name.
        what: A description of them, for the message.

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


def require_coefficient(t: float) -> None:
    """Raise if an interpolation coefficient is out of range.

    Args:
        t: The coefficient.

    Raises:
        InvalidInputError: If it is not in [0, 1].
    """
    if not 0.0 <= t <= 1.0:
        message = f"expected an interpolation coefficient t in [0, 1], got {t!r}"
        raise InvalidInputError(message)
