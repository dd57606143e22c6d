"""Products written as in ``einsum``: a label for every dimension, and what follows for the axes of a weight."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, final

if TYPE_CHECKING:
    from collections.abc import Collection

Labels: TypeAlias = "tuple[str, ...]"
"""One label a dimension; of several letters where a dimension is a product of axes; empty for positions."""

BATCH = "*"
"""The label of leading dimensions, which are broadcast."""


class Role(Enum):
    """What an axis of a parameter does where the parameter meets activations."""

    OUTPUT = "output"
    """It runs along an axis of the result: units that are computed, looked up, scaled or shifted."""

    INPUT = "input"
    """It is summed over together with an axis of the activations: units that are read."""

    UNKNOWN = "unknown"
    """It meets a function that is not understood."""


@final
@dataclass(frozen=True, slots=True)
class LabelledProduct:
    """A product of several factors, with the labels of their dimensions.

    Attributes:
        factors: The labels of every factor.
        output: The labels of the product.
        groups: The number of groups of a convolution.
    """

    factors: tuple[Labels, ...]
    output: Labels
    groups: int = 1

    def roles(self, number: int, active: Collection[int]) -> list[Role | None]:
        """Return what the dimensions of a factor do.

        Args:
            number: Of the factor.
            active: The numbers of the factors that are activations.

        Returns:
            A role a dimension; None for positions, such as those of a kernel.
        """
        computed = set("".join(self.output))
        read = set("".join(label for k in active if k != number for label in self.factors[k])) - computed
        found: list[Role | None] = []
        for label in self.factors[number]:
            letters = set(label)
            if not letters:
                found.append(None)
            elif letters <= computed:
                found.append(Role.OUTPUT)
            else:
                found.append(Role.INPUT if letters <= read else Role.UNKNOWN)
        return found

    def unit_dims(self, number: int) -> tuple[int, int] | None:
        """Return where the units are that a factor alone brings into the product.

        Args:
            number: Of the factor.

        Returns:
            The dimension of the factor, and that of the output from the end; None unless there is one.
        """
        others = set("".join(label for k, held in enumerate(self.factors) if k != number for label in held))
        own = [dim for dim, label in enumerate(self.factors[number]) if set(label) - others]
        if len(own) != 1 or self.factors[number][own[0]] not in self.output:
            return None
        return own[0], self.output.index(self.factors[number][own[0]]) - len(self.output)

    def batch_dims(self, number: int) -> list[int]:
        """Return the dimensions of a factor along which it is multiplied entry by entry.

        Args:
            number: Of the factor.

        Returns:
            The dimensions.
        """
        others = set("".join(label for k, held in enumerate(self.factors) if k != number for label in held))
        shared = others & set("".join(self.output))
        return [dim for dim, label in enumerate(self.factors[number]) if label and set(label) <= shared]

    def read_dim(self, number: int, weight: int) -> int | None:
        """Return the dimension of a factor that is summed over with a weight.

        Args:
            number: Of the factor.
            weight: The number of the weight.

        Returns:
            The dimension, from the end; None unless there is one.
        """
        summed = set("".join(self.factors[weight])) - set("".join(self.output))
        dims = [dim for dim, label in enumerate(self.factors[number]) if summed & set(label)]
        return dims[0] - len(self.factors[number]) if len(dims) == 1 else None
