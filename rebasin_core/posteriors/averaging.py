"""Weights of posteriors, and weighted means of their tensors."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.tensors.kinds import raise_wrong_type, require_sequence
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from torch import Tensor

Weights: TypeAlias = Sequence[float] | Mapping[str, Sequence[float]]
"""One weight per posterior; or such weights by pattern of tensor names, of which the first match is used."""


def normalized_weights(weights: Tensor, count: int) -> Tensor:
    """Return weights that sum to one.

    Args:
        weights: ``[K]``, not negative, not all zero.
        count: The number K.

    Returns:
        The weights divided by their sum.

    Raises:
        InvalidInputError: If their number is another, one is negative, or all are zero.
    """
    if tuple(weights.shape) != (count,) or not bool((weights >= 0).all()) or not weights.sum().item() > 0:
        message = f"expected {count} weights, none negative and not all zero, got {shown(weights)}"
        raise InvalidInputError(message)
    return weights / weights.sum()


def require_weights(weights: Weights | None) -> None:
    """Raise if a value is neither weights nor weights by pattern.

    Args:
        weights: What was given; None for equal ones.

    Raises:
        InvalidInputError: If it is something else, or holds something else than numbers.
    """
    if weights is None:
        return
    for own in weights.values() if isinstance(weights, Mapping) else [weights]:
        require_sequence(own, "weights as a list of numbers, one a posterior")
        for value in own:
            if not isinstance(value, int | float | torch.Tensor):
                raise_wrong_type(value, "a weight as a number")


@final
class TensorWeights:
    """Weights of K posteriors that sum to one, for every tensor.

    Args:
        weights: See `Weights`; equal if None.
        count: The number K.

    Raises:
        InvalidInputError: If their number is not K, one is negative, or all are zero.
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

    def require_uniform(self, what: str) -> Tensor:
        """Return the weights, which must be the same for all tensors.

        Args:
            what: The posteriors, for the message.

        Returns:
            ``[K]``, in float64.

        Raises:
            NoClosedFormError: If weights were given by more than one pattern, or by another pattern than ``*``.
        """
        if self._by_pattern.keys() != {"*"}:
            message = (
                f"weights by tensor are for independent entries, and {what} couple theirs; give one weight per "
                "posterior, or use `moment_barycenter`"
            )
            raise NoClosedFormError(message)
        return self._by_pattern["*"]

    def of(self, name: str) -> Tensor:
        """Return the weights for a tensor.

        Args:
            name: The tensor.

        Returns:
            ``[K]``, in float64; equal weights if no pattern matches.
        """
        return next((own for p, own in self._by_pattern.items() if fnmatch.fnmatchcase(name, p)), self._equal)

    def mean(self, each: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the weighted mean of tensors.

        Args:
            each: K mappings with the same names and shapes.

        Returns:
            The means, in the dtype and on the device of the first mapping; integer tensors are copied from it.
        """
        found: dict[str, Tensor] = {}
        for name, first in each[0].items():
            if not first.is_floating_point():
                found[name] = first.clone()
                continue
            total = torch.zeros_like(first, dtype=torch.float64)
            for weight, tensors in zip(self.of(name).tolist(), each, strict=True):
                total += weight * tensors[name].to(first.device).double()
            found[name] = total.to(first.dtype)
        return found
