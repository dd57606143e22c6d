"""Validation of posteriors and their tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.base import Posterior
from rebasin_core.tensors.checks import require_same_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def require_posteriors(*given: object) -> None:
    """Raise if an argument is not a posterior.

    Args:
        *given: The arguments.

    Raises:
        InvalidInputError: If an argument has another type, which the message states.
    """
    for value in given:
        if not isinstance(value, Posterior):
            message = (
                f"expected posteriors, got `{type(value).__qualname__}`; `rebasin_core.as_posterior` converts modules, "
                "state dicts and objects of other libraries"
            )
            raise InvalidInputError(message)


def require_same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor], label: str) -> None:
    """Raise if the names or shapes of two sets of tensors differ.

    Args:
        first: Tensors with the expected names and shapes.
        second: Tensors to check.
        label: Name of ``second`` in the message.

    Raises:
        InvalidInputError: If names or shapes differ.
    """
    require_same_names(first, second, label)
    for name, tensor in first.items():
        if tensor.shape != second[name].shape:
            message = f"{label}: `{name}` has shape {tuple(second[name].shape)}, expected {tuple(tensor.shape)}"
            raise InvalidInputError(message)


def require_nonnegative(stddev: Mapping[str, Tensor], label: str) -> None:
    """Raise if a standard deviation is negative.

    Args:
        stddev: Standard deviations by parameter name.
        label: Name of the quantity in the message.

    Raises:
        InvalidInputError: If an entry is negative.
    """
    for name, tensor in stddev.items():
        lowest = tensor.min().item() if tensor.numel() else 0.0
        if lowest < 0:
            message = (
                f"expected {label} of `{name}` to be nonnegative, got a minimum of {lowest:.3g}; pass standard "
                "deviations, not their logarithms or unconstrained values"
            )
            raise InvalidInputError(message)


def require_coefficient(t: float) -> None:
    """Raise if an interpolation coefficient is out of range.

    Args:
        t: The interpolation coefficient.

    Raises:
        InvalidInputError: If t is not in [0, 1].
    """
    if not 0.0 <= t <= 1.0:
        message = f"expected an interpolation coefficient t in [0, 1], got {t!r}"
        raise InvalidInputError(message)
