"""Weights of posteriors, and weighted means of their tensors."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.tensors.arguments import raise_wrong_type, require_sequence
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from torch import Tensor

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
        InvalidInputError: If the number of weights is not K, one is negative, or all are zero.
    """
    if tuple(weights.shape) != (count,) or not bool((weights >= 0).all()) or not weights.sum().item() > 0:
        message = f"expected {count} nonnegative weights, not all zero, got {shown(weights)}"
        raise InvalidInputError(message)
    return weights / weights.sum()


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
    """Weights of K posteriors, normalized to sum 1 for each tensor.

    Args:
        weights: One nonnegative weight per posterior, or a mapping from name patterns to such weights; equal if None.
        count: Number K of posteriors.

    Raises:
        InvalidInputError: If the number of weights is not K, one is negative, or all are zero.
    """

    def __init__(self, weights: Weights | None, count: int) -> None:
        require_weights(weights)
        given = weights if weights is not None else [1.0] * count
        by_pattern = given if isinstance(given, Mapping) else {"*": given}
        self._by_pattern = {
            pattern: normalized_weights(torch.tensor(list(own), dtype=torch.float64), count)
            for pattern, own in by_pattern.items()
        }
        self._equal = torch.full((count,), 1 / count, dtype=torch.float64)

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
            Weights ``[K]``, in float64; equal if no pattern matches.
        """
        return next((own for p, own in self._by_pattern.items() if fnmatch.fnmatchcase(name, p)), self._equal)

    def mean(self, each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return weighted means of tensors.

        Args:
            each: K mappings with the same names and shapes.

        Returns:
            Means by name, with dtype and device of the first mapping. Integer tensors are copied from the first.
        """
        means: dict[str, Tensor] = {}
        for name, first in each[0].items():
            if not first.is_floating_point():
                means[name] = first.clone()
                continue
            total = torch.zeros_like(first, dtype=torch.float64)
            for weight, tensors in zip(self.of(name).tolist(), each, strict=True):
                total += weight * tensors[name].to(first.device).double()
            means[name] = total.to(first.dtype)
        return means
