"""Axes that are not yet known: what tracing writes down for every dimension of every tensor.

A term is a row-major product of factors. A factor is an `Unknown`, which may later turn out to be another unknown, a
product, or a concatenation of terms; or `Uniform`, along which the tensor holds one value. Lengths are always known.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, pairwise
from math import prod
from typing import TYPE_CHECKING, Final, TypeAlias, final

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@final
@dataclass(frozen=True, slots=True)
class Reason:
    """Why an axis cannot move.

    Attributes:
        operator: The operator that needs it in order, such as ``conv2d``; ``input`` and ``output`` for the boundary.
        node: The place in the traced graph.
        why: A phrase, such as "positions are mixed by a kernel".
    """

    operator: str
    node: str
    why: str

    @override
    def __str__(self) -> str:
        """Return the reason as it stands in reports."""
        return f"{self.why} ({self.operator} at {self.node})"


@final
@dataclass(frozen=True, slots=True)
class Uniform:
    """An axis along which a tensor is constant, by broadcasting or by construction: any permutation leaves it alone.

    Attributes:
        size: Its length.
    """

    size: int


_NUMBERS: Final = count()


@final
class Unknown:
    """One factor of an axis, to be found out.

    Attributes:
        size: Its length, more than 1.
        term: What it turned out to be, if it is bound.
        parts: The terms laid end to end, if it turned out to be a concatenation.
        fixed: Why it cannot move, if it cannot.
        sightings: The tensors it was seen in, as tuples of terms, by identity.
        number: Orders unknowns by age.
    """

    __slots__ = ("fixed", "number", "parts", "sightings", "size", "term")

    def __init__(self, size: int, fixed: Reason | None = None) -> None:
        self.size = size
        self.fixed = fixed
        self.term: Term | None = None
        self.parts: tuple[Term, ...] = ()
        self.sightings: dict[int, tuple[Term, ...]] = {}
        self.number = next(_NUMBERS)

    @override
    def __repr__(self) -> str:
        """Return the number and the length."""
        return f"?{self.number}:{self.size}{'!' if self.fixed else ''}"


Factor: TypeAlias = Unknown | Uniform
Term: TypeAlias = "tuple[Factor, ...]"


def fresh(size: int, fixed: Reason | None = None) -> Term:
    """Return a new term of a given length.

    Args:
        size: The length; a dimension of length 1 is the empty product.
        fixed: Why it cannot move, if it cannot.

    Returns:
        One unknown, or nothing.
    """
    return () if size == 1 else (Unknown(size, fixed),)


def uniform(size: int) -> Term:
    """Return the term of a dimension along which a tensor is constant.

    Args:
        size: The length.

    Returns:
        One uniform factor, or nothing.
    """
    return () if size == 1 else (Uniform(size),)


def length(term: Term) -> int:
    """Return the length of a term.

    Args:
        term: Any term.

    Returns:
        The product of its factors' lengths.
    """
    return prod(factor.size for factor in term)


def gaps(points: Iterable[int]) -> list[int]:
    """Return the distances between neighbouring points.

    Args:
        points: In order.

    Returns:
        One fewer than there are points.
    """
    return [after - before for before, after in pairwise(points)]


def expand(term: Term) -> Term:
    """Return a term with everything that is known by now put in.

    Args:
        term: Any term.

    Returns:
        An equal term whose unknowns are not bound.
    """
    if all(isinstance(factor, Uniform) or factor.term is None for factor in term):
        return term
    found: list[Factor] = []
    for factor in term:
        if isinstance(factor, Uniform) or factor.term is None:
            found.append(factor)
        else:
            factor.term = expand(factor.term)
            found.extend(factor.term)
    return tuple(found)


def unknowns(term: Term) -> Iterator[Unknown]:
    """Yield the unknowns of a term, concatenations before what they are made of.

    Args:
        term: Any term.

    Yields:
        Unknowns that are not bound, as often as they stand there.
    """
    for factor in expand(term):
        if isinstance(factor, Unknown):
            yield factor
            for part in factor.parts:
                yield from unknowns(part)


def leaves(term: Term) -> Iterator[Unknown]:
    """Return the unknowns of a term that are not concatenations.

    Args:
        term: Any term.

    Returns:
        Unknowns that are neither bound nor made of parts.
    """
    return (unknown for unknown in unknowns(term) if not unknown.parts)


def is_solid(term: Term) -> bool:
    """Return whether no factor of a term is uniform.

    Args:
        term: Any term.

    Returns:
        False if a tensor is constant along some factor, or along some part of one.
    """
    return all(isinstance(factor, Unknown) and all(is_solid(part) for part in factor.parts) for factor in expand(term))
