"""How two axes are related, and how an operator sees the units of an axis."""

from __future__ import annotations

from enum import Enum
from typing import final


@final
class Relation(Enum):
    """How the elements of two axes that are unified are combined.

    Permutations do not distinguish them; scales, signs and linear maps do.
    """

    TIED = "tied"
    """By any function of both."""
    EQUAL = "equal"
    """They are added, compared or concatenated along another axis: both must be transformed equally."""
    PRODUCT = "product"
    """They are multiplied elementwise."""
    QUOTIENT = "quotient"
    """The first is divided by the second elementwise."""
    CONTRACTED = "contracted"
    """They are multiplied and summed over."""


@final
class Sight(Enum):
    """How an operator sees the units of an axis: the family of maps of the units that commute with it."""

    COPY = "copy"
    """Entries are copied, moved, repeated or split, but not computed: all invertible maps."""
    LINEAR = "linear"
    """A linear function of the tensor, the same for all units: all invertible maps."""
    NORM = "norm"
    """Only their Euclidean norm: orthogonal maps."""
    SUM = "sum"
    """Their sum, or all of them shifted by one number: maps that fix the vector of ones."""
    DIAGONAL = "diagonal"
    """Multiplied by another vector, unit by unit: permutations, signs and scales."""
    HOMOGENEOUS = "homogeneous"
    """An elementwise positively homogeneous function (ReLU): permutations and positive scales."""
    ODD = "odd"
    """An elementwise odd function (tanh): permutations and signs."""
    CENTERED = "centered"
    """An elementwise odd function plus a constant (logistic sigmoid): permutations, and flips if only layers with
    biases use the result."""
    POSITIVITY = "positivity"
    """Whether each of them is positive: permutations and positive scales, which do not change the result."""
    EVEN = "even"
    """The absolute value: permutations, signs and scales, where the sign is lost."""
    ANY = "any"
    """Any function that commutes with permutations."""
