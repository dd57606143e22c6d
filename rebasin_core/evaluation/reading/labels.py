"""Products with a label for each dimension, as in ``einsum``, and the roles of the axes of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Collection

Labels: TypeAlias = "tuple[str, ...]"
"""One label for each dimension: several letters for a product of axes, empty for spatial positions."""

BATCH = "*"
"""Label of leading dimensions, which are broadcast."""


class Role(Enum):
    """Role of an axis of a parameter in operations with activations."""

    OUTPUT = "output"
    """Along an axis of the result: units that are computed, looked up, scaled or shifted."""

    INPUT = "input"
    """Summed over together with an axis of the activations: units that are read."""

    UNKNOWN = "unknown"
    """Used by a function that is not supported."""


@final
@dataclass(frozen=True, slots=True)
class LabelledProduct:
    """A product of several factors, with the labels of their dimensions.

    Attributes:
        factors: Labels of each factor.
        output: Labels of the product.
        groups: Number of groups of a convolution.
    """

    factors: tuple[Labels, ...]
    output: Labels
    groups: int = 1

    def roles(self, index: int, active: Collection[int]) -> list[Role | None]:
        """Return the roles of the dimensions of a factor.

        Args:
            index: Index of the factor.
            active: Indices of the factors that are activations.

        Returns:
            One role for each dimension; None for spatial positions, such as those of a kernel.
        """
        computed = set("".join(self.output))
        read = set("".join(label for k in active if k != index for label in self.factors[k])) - computed
        roles: list[Role | None] = []
        for label in self.factors[index]:
            letters = set(label)
            if not letters:
                roles.append(None)
            elif letters <= computed:
                roles.append(Role.OUTPUT)
            else:
                roles.append(Role.INPUT if letters <= read else Role.UNKNOWN)
        return roles

    def unit_dims(self, index: int) -> tuple[int, int] | None:
        """Return the dimensions of the units that only this factor contributes to the product.

        Args:
            index: Index of the factor.

        Returns:
            The dimension of the factor, and that of the output counted from the end (negative); None unless there is
            exactly one.
        """
        others = set("".join(label for k, labels in enumerate(self.factors) if k != index for label in labels))
        own = [dim for dim, label in enumerate(self.factors[index]) if set(label) - others]
        if len(own) != 1 or self.factors[index][own[0]] not in self.output:
            return None
        return own[0], self.output.index(self.factors[index][own[0]]) - len(self.output)

    def batch_dims(self, index: int) -> list[int]:
        """Return the dimensions along which a factor is multiplied entry by entry.

        Args:
            index: Index of the factor.

        Returns:
            The dimensions.
        """
        others = set("".join(label for k, labels in enumerate(self.factors) if k != index for label in labels))
        shared = others & set("".join(self.output))
        return [dim for dim, label in enumerate(self.factors[index]) if label and set(label) <= shared]

    def read_dim(self, index: int, weight: int) -> int | None:
        """Return the dimension of a factor that is summed over together with a weight.

        Args:
            index: Index of the factor.
            weight: Index of the weight.

        Returns:
            The dimension, counted from the end (negative); None unless there is exactly one.
        """
        summed = set("".join(self.factors[weight])) - set("".join(self.output))
        dims = [dim for dim, label in enumerate(self.factors[index]) if summed & set(label)]
        return dims[0] - len(self.factors[index]) if len(dims) == 1 else None
