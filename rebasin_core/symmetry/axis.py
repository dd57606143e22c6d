"""The axis algebra: an axis is an atom, a product of axes or a concatenation of axes.

One dimension of a tensor often holds more than one thing. Flattening a feature map of ``[channels, 7, 7]`` gives an
axis that is a *product* ``channels * 49``; the output of a fused query-key-value projection is a *concatenation*
``q + k + v``, where each of the three is a product ``heads * width``. Only atoms carry a group. Therefore a permutation
of the channels acts on a flattened axis block by block.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeAlias, final

from rebasin_core.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterator


@final
@dataclass(frozen=True, slots=True)
class Group:
    """A set of axes that must all be permuted by the same permutation.

    Attributes:
        name: Unique within a layout.
        size: Number of units, at least 1.
        within: The outer group of a nested group, which is permuted separately within each outer unit (the width inside
            each attention head, the channels inside each group of a grouped convolution); else None.
    """

    name: str
    size: int
    within: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Atom:
    """An indivisible axis: the units of one group, or fixed positions.

    Attributes:
        size: Length, at least 1.
        group: Name of the group that permutes it; None for fixed positions.
    """

    size: int
    group: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Product:
    """An axis that is the row-major flattening of several axes; build it with `product`.

    Attributes:
        factors: From slowest to fastest varying.
    """

    factors: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """The length, the product of the factors' lengths."""
        return prod(factor.size for factor in self.factors)


@final
@dataclass(frozen=True, slots=True)
class Concat:
    """An axis that concatenates several axes; build it with `concat`.

    Attributes:
        parts: In order.
    """

    parts: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """The length, the sum of the parts' lengths."""
        return sum(part.size for part in self.parts)


Axis: TypeAlias = Atom | Product | Concat
"""Structure of one tensor dimension: a group or fixed axis, a product of axes, or a concatenation."""


def product(*factors: Axis) -> Axis:
    """Return the row-major product of axes, in normal form.

    Nested products are flattened, adjacent fixed atoms merged and factors of length 1 dropped. Therefore equal axes
    compare equal.

    Args:
        factors: From slowest to fastest varying; without any, the product is a fixed axis of length 1.

    Returns:
        The product.
    """
    flat: list[Axis] = []
    for factor in factors:
        for item in factor.factors if isinstance(factor, Product) else (factor,):
            last = flat[-1] if flat else None
            if item == Atom(1):
                continue
            if is_fixed(item) and last is not None and is_fixed(last):
                flat[-1] = Atom(last.size * item.size)
            else:
                flat.append(item)
    if not flat:
        return Atom(1)
    return flat[0] if len(flat) == 1 else Product(tuple(flat))


def concat(*parts: Axis) -> Axis:
    """Return the concatenation of axes, in normal form.

    Args:
        parts: In order, at least one.

    Returns:
        The concatenation; nested ones are flattened and adjacent fixed atoms merged.

    Raises:
        SpecError: If no part is given.
    """
    flat: list[Axis] = []
    for part in parts:
        for item in part.parts if isinstance(part, Concat) else (part,):
            last = flat[-1] if flat else None
            if is_fixed(item) and last is not None and is_fixed(last):
                flat[-1] = Atom(last.size + item.size)
            else:
                flat.append(item)
    if not flat:
        message = "expected at least one axis to concatenate, got none"
        raise SpecError(message)
    return flat[0] if len(flat) == 1 else Concat(tuple(flat))


def is_fixed(axis: Axis) -> bool:
    """Return whether the axis is one fixed atom.

    Args:
        axis: Any axis, in normal form.

    Returns:
        True for an atom without a group.
    """
    return isinstance(axis, Atom) and axis.group is None


def factors_of(axis: Axis) -> tuple[Axis, ...]:
    """Return the factors of a product, or the axis itself as the only one.

    Args:
        axis: Any axis.

    Returns:
        At least one axis, none of them a product.
    """
    return axis.factors if isinstance(axis, Product) else (axis,)


def atoms_of(axis: Axis) -> Iterator[Atom]:
    """Yield the atoms of an axis, left to right.

    Args:
        axis: Any axis.

    Yields:
        Each atom, as often as it occurs.
    """
    match axis:
        case Atom():
            yield axis
        case Product(factors):
            for factor in factors:
                yield from atoms_of(factor)
        case Concat(parts):
            for part in parts:
                yield from atoms_of(part)
