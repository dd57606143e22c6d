"""Integer and binary null spaces of sparse systems of equations."""

from __future__ import annotations

from fractions import Fraction
from math import gcd, lcm
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

Unknown = TypeVar("Unknown")


def integer_nullspace(
    unknowns: Sequence[Unknown], equations: Iterable[Mapping[Unknown, int]]
) -> list[dict[Unknown, int]]:
    """Return a basis of the solutions of linear equations over the rational numbers.

    Args:
        unknowns: All unknowns.
        equations: The coefficients of each equation; their weighted sum is zero.

    Returns:
        Integer vectors without common divisors, their nonzero entries by unknown; the first one is positive.
    """
    pivots: dict[Unknown, dict[Unknown, Fraction]] = {}
    for equation in equations:
        row = _reduced({unknown: Fraction(count) for unknown, count in equation.items() if count}, pivots)
        if not row:
            continue
        pivot = next(iter(row))
        row = {unknown: value / row[pivot] for unknown, value in row.items()}
        for other, own in pivots.items():
            if pivot in own:
                pivots[other] = _minus(own, row, own[pivot])
        pivots[pivot] = row
    found: list[dict[Unknown, int]] = []
    for free in unknowns:
        if free in pivots:
            continue
        vector = {pivot: -row[free] for pivot, row in pivots.items() if free in row}
        vector[free] = Fraction(1)
        found.append(_integers({unknown: vector[unknown] for unknown in unknowns if unknown in vector}))
    return found


def binary_nullspace(
    unknowns: Sequence[Unknown], equations: Iterable[AbstractSet[Unknown]]
) -> list[frozenset[Unknown]]:
    """Return a basis of the solutions of linear equations modulo 2.

    Args:
        unknowns: All unknowns.
        equations: The unknowns of each equation; an even number of them is one.

    Returns:
        The unknowns that are one, for each solution.
    """
    pivots: dict[Unknown, set[Unknown]] = {}
    for equation in equations:
        row = set(equation)
        for pivot in [unknown for unknown in row if unknown in pivots]:
            row ^= pivots[pivot]
        if not row:
            continue
        pivot = next(unknown for unknown in unknowns if unknown in row)
        for other, own in pivots.items():
            if pivot in own:
                pivots[other] = own ^ row
        pivots[pivot] = row
    return [
        frozenset({free, *(pivot for pivot, row in pivots.items() if free in row)})
        for free in unknowns
        if free not in pivots
    ]


def independent_of(
    vectors: Iterable[frozenset[Unknown]], basis: Iterable[frozenset[Unknown]]
) -> list[frozenset[Unknown]]:
    """Return the vectors modulo 2 that extend a basis.

    Args:
        vectors: Candidates.
        basis: Independent vectors.

    Returns:
        Those candidates that are no sums of the basis and earlier candidates.
    """
    rows: dict[Unknown, frozenset[Unknown]] = {}  # by an element that no earlier row contains
    found: list[frozenset[Unknown]] = []
    known = list(basis)
    for number, vector in enumerate((*known, *vectors)):
        left = vector
        for pivot, row in rows.items():
            if pivot in left:
                left ^= row
        if left:
            rows[next(iter(left))] = left
            if number >= len(known):
                found.append(vector)
    return found


def _reduced(
    row: dict[Unknown, Fraction], pivots: Mapping[Unknown, Mapping[Unknown, Fraction]]
) -> dict[Unknown, Fraction]:
    for pivot in [unknown for unknown in row if unknown in pivots]:
        row = _minus(row, pivots[pivot], row[pivot])
    return row


def _minus(
    row: Mapping[Unknown, Fraction], other: Mapping[Unknown, Fraction], factor: Fraction
) -> dict[Unknown, Fraction]:
    found = dict(row)
    for unknown, value in other.items():
        found[unknown] = found.get(unknown, Fraction(0)) - factor * value
    return {unknown: value for unknown, value in found.items() if value}


def _integers(vector: Mapping[Unknown, Fraction]) -> dict[Unknown, int]:
    scale = lcm(*(value.denominator for value in vector.values()))
    whole = {unknown: int(value * scale) for unknown, value in vector.items()}
    divisor = gcd(*whole.values())
    sign = 1 if next(iter(whole.values())) > 0 else -1
    return {unknown: sign * value // divisor for unknown, value in whole.items()}
