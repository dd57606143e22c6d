"""Weights of posteriors, and weighted means of their tensors."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.tensors.arguments import raise_wrong_type, require_sequence

if TYPE_CHECKING:
    from torch import Tensor

_MAX_LENGTH = 120

Weights: TypeAlias = Sequence[float] | Mapping[str, Sequence[float]]
"""One weight per posterior, or a mapping from patterns of tensor names to such weights (the first match applies)."""


def normalized_weights(weights: Tensor, count: int) -> Tensor:
    """Return weights that sum to 1.

    Args:
        weights: ``[K]``, nonnegative, not all zero.
        count: Expected number K.

    Returns:
        The weights divided by their sum.

    Raises:
        InvalidInputError: If the number of weights is not K, one is negative or infinite, or all are zero.
    """
    total = weights.sum().item()
    if tuple(weights.shape) != (count,) or not bool((weights >= 0).all()) or not 0 < total < math.inf:
        message = f"expected {count} nonnegative weights, finite and not all zero, got {_listed(weights)}"
        raise InvalidInputError(message)
    return weights / weights.sum()


def finite_coefficients(coefficients: Tensor, count: int) -> Tensor:
    """Return coefficients unchanged; raise unless there are K finite ones.

    Args:
        coefficients: ``[K]``, of any sign.
        count: Expected number K.

    Returns:
        The coefficients.

    Raises:
        InvalidInputError: If the number of coefficients is not K, or one is infinite or NaN.
    """
    if tuple(coefficients.shape) != (count,) or not bool(coefficients.isfinite().all()):
        message = f"expected {count} finite coefficients, got {_listed(coefficients)}"
        raise InvalidInputError(message)
    return coefficients


def _listed(numbers: Tensor) -> str:
    """Return numbers for a message, in one line of limited length."""
    text = str(numbers.tolist())
    return text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]}..."


def require_weights(weights: Weights | None) -> None:
    """Raise if a value is not of the type `Weights`.

    Args:
        weights: The value; None for equal weights.

    Raises:
        InvalidInputError: If it has another type, or contains a value that is not a number.
    """
    if weights is None:
        return
    for own in weights.values() if isinstance(weights, Mapping) else [weights]:
        require_sequence(own, "weights as a list of numbers, one per posterior")
        for value in own:
            if not isinstance(value, int | float | torch.Tensor):
                raise_wrong_type(value, "a weight as a number")


@final
class TensorWeights:
    """Weights of K posteriors for each tensor, normalized to sum 1 unless they are coefficients.

    Args:
        weights: One weight per posterior, or a mapping from name patterns to such weights; if None, 1 for each before
            they are normalized.
        count: Number K of posteriors.
        relative: Whether weights are nonnegative and normalized to sum 1. If false, they are finite coefficients of any
            sign, which are not changed.

    Raises:
        InvalidInputError: If the number of weights is not K, or a weight is negative or not finite, or all are zero.
    """

    def __init__(self, weights: Weights | None, count: int, *, relative: bool = True) -> None:
        require_weights(weights)
        given = weights if weights is not None else [1.0] * count
        by_pattern = given if isinstance(given, Mapping) else {"*": given}
        checked = normalized_weights if relative else finite_coefficients
        self._by_pattern = {
            pattern: checked(torch.tensor(list(own), dtype=torch.float64), count) for pattern, own in by_pattern.items()
        }
        self._equal = checked(torch.ones(count, dtype=torch.float64), count)

    def require_uniform(self, label: str) -> Tensor:
        """Return the weights if they are the same for all tensors; raise otherwise.

        Args:
            label: Name of the posteriors, for the message.

        Returns:
            Weights ``[K]``, in float64.

        Raises:
            NoClosedFormError: If the weights have a name pattern other than ``*``.
        """
        if self._by_pattern.keys() != {"*"}:
            message = (
                f"expected one weight per posterior for {label}, whose entries are dependent, got weights by tensor; "
                "use `moment_barycenter` for weights by tensor"
            )
            raise NoClosedFormError(message)
        return self._by_pattern["*"]

    def of(self, name: str) -> Tensor:
        """Return the weights for a tensor.

        Args:
            name: Name of the tensor.

        Returns:
            Weights ``[K]``, in float64; equal (coefficients: 1 for each) if no pattern matches.
        """
        return next((own for p, own in self._by_pattern.items() if fnmatch.fnmatchcase(name, p)), self._equal)

    def all(self) -> list[Tensor]:
        """Return the weights of all patterns.

        Returns:
            Weights ``[K]`` in float64, for each pattern.
        """
        return list(self._by_pattern.values())

    def mean(self, each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return weighted means of tensors.

        Args:
            each: K mappings with the same names and shapes.

        Returns:
            Means by name, with dtype and device of the first mapping. Integer tensors are copied from the first.
        """
        means: dict[str, Tensor] = {}
        for name, first in each[0].items():
            if not (first.is_floating_point() or first.is_complex()):
                means[name] = first.clone()
                continue
            wide = torch.complex128 if first.is_complex() else torch.float64
            total = torch.zeros_like(first, dtype=wide)
            for weight, tensors in zip(self.of(name).tolist(), each, strict=True):
                total += weight * tensors[name].to(first.device, wide)
            means[name] = total.to(first.dtype)
        return means
