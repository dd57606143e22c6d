"""Kinds of linear maps of units, the slots of tensors on which they act, and the shifts of biases by flips."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from rebasin_core.errors import SpecError
from rebasin_core.tensors.reading import shown


@final
class Kind(StrEnum):
    """A family of linear maps of the units of a group.

    Members of the first four kinds multiply each unit by a factor of its own; those of the others are matrices.
    """

    SIGN = "sign"
    """One factor 1 or -1 per unit (odd activation functions, such as tanh)."""
    FLIP = "flip"
    """One factor 1 or -1 per unit, and shifts of the next biases (an odd function plus a constant, such as the logistic
    sigmoid). A sign in coordinates in which the next biases contain the constant; see `Shift`."""
    POSITIVE = "positive"
    """One positive factor per unit (positively homogeneous activation functions, such as ReLU)."""
    NONZERO = "nonzero"
    """One nonzero factor per unit (units that enter linearly, such as the ungated half of SwiGLU)."""
    ROTATION = "rotation"
    """One rotation and positive scale per pair of units (see `Pairs`): a complex factor (rotary positions)."""
    ORTHOGONAL = "orthogonal"
    """Orthogonal matrices (the residual stream between normalizations by root mean square)."""
    ORTHOGONAL_FIXING_ONES = "orthogonal_fixing_ones"
    """Orthogonal matrices with ``g @ 1 = 1`` (the residual stream between layer normalizations)."""
    INVERTIBLE = "invertible"
    """Invertible matrices (units between two linear layers, such as the value width of an attention head)."""

    @property
    def is_factor(self) -> bool:
        """Whether a map is one real factor per unit."""
        return self in {Kind.SIGN, Kind.FLIP, Kind.POSITIVE, Kind.NONZERO}

    @property
    def is_sign(self) -> bool:
        """Whether a map is one factor 1 or -1 per unit."""
        return self in {Kind.SIGN, Kind.FLIP}

    @property
    def has_signs(self) -> bool:
        """Whether a map has one sign per unit."""
        return self in {Kind.SIGN, Kind.FLIP, Kind.NONZERO}

    def map_shape(self, size: int) -> tuple[int, ...]:
        """Return the shape of a map of ``size`` units, without the dimensions of outer groups.

        Args:
            size: Number of units; even for `ROTATION`.

        Returns:
            ``(n,)`` for factors, ``(n/2, 2)`` for rotations (real and imaginary part), ``(n, n)`` for matrices.
        """
        if self.is_factor:
            return (size,)
        return (size // 2, 2) if self is Kind.ROTATION else (size, size)

    def dimension(self, size: int) -> int:
        """Return the number of continuous parameters of a map of ``size`` units.

        Args:
            size: Number of units.

        Returns:
            The dimension of the group of these maps.
        """
        match self:
            case Kind.SIGN | Kind.FLIP:
                return 0
            case Kind.POSITIVE | Kind.NONZERO | Kind.ROTATION:
                return size
            case Kind.ORTHOGONAL:
                return size * (size - 1) // 2
            case Kind.ORTHOGONAL_FIXING_ONES:
                return (size - 1) * (size - 2) // 2
            case Kind.INVERTIBLE:
                return size * size


@final
@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One occurrence of a group on a tensor.

    Attributes:
        tensor: Name of the tensor.
        dim: Index of the tensor's dimension.
        number: Index of the atom on the axis of that dimension, left to right (see `atoms_of`). It distinguishes the
            parts of a concatenation, such as the query, key and value of a fused projection.
    """

    tensor: str
    dim: int
    number: int = 0


@final
@dataclass(frozen=True, slots=True, order=True)
class Shift:
    r"""A layer after units that are an odd function plus a constant: flips of the units shift its bias.

    Let the units be $h = \tfrac c2 + o(u)$ with an odd function $o$: $h(-u) = c - h(u)$. A layer $V h + b$ is
    $V o + (b + \tfrac c2 V e)$ with the vector of ones $e$. In the *centered* coordinates $(V, b + \tfrac c2 V e)$, a
    flip of a unit is a sign.

    Attributes:
        weight: Name of the weight $V$.
        dim: Dimension of the weight that the bias has; the sum of the shift is over all others.
        bias: Name of the bias $b$, a vector.
        constant: The constant $c$, 1 for the logistic sigmoid.
        slope: The slope $o'(0)$, 1/4 for the logistic sigmoid. It has no effect on flips. Matchers compare networks in
            the units of $2 o / c$, of which inputs are scaled to slope 1: logistic networks like the equivalent ones
            with tanh.

    Raises:
        SpecError: If the constant or the slope is zero or not finite.
    """

    weight: str
    dim: int
    bias: str
    constant: float = 1.0
    slope: float = 0.25

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in (("constant", self.constant), ("slope", self.slope)):
            if not math.isfinite(value) or value == 0:
                message = f"shift of {shown(self.bias)}: expected a finite, nonzero {name}, got {value!r}"
                raise SpecError(message)
