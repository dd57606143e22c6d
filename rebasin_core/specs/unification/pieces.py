"""Axes in pieces: concatenations, and what other axes are beside each of their parts."""

from __future__ import annotations

from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

from rebasin_core.specs.unification.terms import (
    Reason,
    Term,
    Uniform,
    Unknown,
    expand,
    fresh,
    gaps,
    leaves,
    length,
    unknowns,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.unification.terms import Factor

Steps: TypeAlias = "tuple[tuple[Unknown, int], ...]"
"""Where a piece lies: the concatenation and the number of its part, from the outside in."""

Piece: TypeAlias = "tuple[Term, Steps]"


class Pieces:
    """The axes of one traced graph and how they are cut.

    Attributes:
        tensors: The terms of every tensor seen, real or implied by an operator.
        children: For an unknown that may permute differently in every part of a concatenation that stands beside it,
            what it is in each part: ``(unknown, concatenation, part) -> term``.
    """

    def __init__(self) -> None:
        self.tensors: list[tuple[Term, ...]] = []
        self.children: dict[tuple[Unknown, Unknown, int], Term] = {}

    def sight(self, terms: tuple[Term, ...]) -> None:
        """Note that a tensor with these dimensions exists.

        A permutation within one unit of another axis can only be chosen for each unit if the two are seen together
        wherever it is seen at all.

        Args:
            terms: One term a dimension.
        """
        self.tensors.append(terms)
        for unknown in {unknown for term in terms for unknown in unknowns(term)}:
            unknown.sightings[id(terms)] = terms

    def cut(self, term: Term, sizes: Sequence[int], reason: Reason) -> list[Piece]:
        """Say that an axis is used in consecutive pieces.

        Args:
            term: The axis.
            sizes: Lengths of the pieces, all positive.
            reason: Why it is frozen if it cannot be cut there.

        Returns:
            The pieces, each with where it lies, for `restrict`.
        """
        term = expand(term)
        if len(sizes) == 1:
            return [(term, ())]
        points = set(accumulate(sizes))
        head, rest = term[0], term[1:]
        inner = length(rest)
        bounds = sorted({bound for point in points for bound in (point // inner, -(-point // inner))} | {0})
        atoms: list[Piece] = []
        for start, (outer, steps) in zip(bounds, self.partition(head, gaps(bounds), reason), strict=False):
            inside = self.restrict(rest, steps)
            first, last = start * inner, start * inner + length(outer) * inner
            marks = [first, *sorted(point for point in points if first < point < last), last]
            if len(marks) == 2:  # ruff: ignore[magic-value-comparison] - nothing lies between the ends
                atoms.append(((*outer, *inside), steps))
            else:
                within = self.cut(inside, gaps(marks), reason)
                atoms.extend((piece, (*steps, *deeper)) for piece, deeper in within)
        return _gathered(atoms, sizes)

    def restrict(self, term: Term, steps: Steps) -> Term:
        """Return what an axis is beside one part of a concatenation.

        Args:
            term: The axis.
            steps: The part.

        Returns:
            The same axis, or one of its own where nothing seen so far forbids that.
        """
        for owner, part in steps:
            term = tuple(found for factor in expand(term) for found in self._restrict(factor, owner, part))
        return term

    @staticmethod
    def may_depend(unknown: Unknown, owner: Unknown) -> bool:
        """Return whether nothing seen so far forbids that an axis permutes differently beside each part of another.

        Args:
            unknown: The axis.
            owner: A concatenation.

        Returns:
            Whether every tensor with the first has the second, exactly once.
        """
        return all(_count(terms, owner) == 1 for terms in unknown.sightings.values())

    def partition(self, head: Factor, sizes: Sequence[int], reason: Reason) -> list[Piece]:
        """Return consecutive pieces of one factor.

        Args:
            head: The factor.
            sizes: Lengths of the pieces, all positive.
            reason: Why it is frozen if it cannot be cut there.

        Returns:
            The pieces.
        """
        if len(sizes) == 1:
            return [((head,), ())]
        if isinstance(head, Uniform):
            return [((Uniform(size),) if size > 1 else (), ()) for size in sizes]
        if not head.parts:
            head.parts = tuple(fresh(size, head.fixed) for size in sizes)
            if 1 in sizes:
                head.fixed = head.fixed or reason  # units have nothing that could say why they stay
            for part in head.parts:
                for leaf in leaves(part):
                    leaf.sightings = dict(head.sightings)
        points, end = sorted(accumulate(sizes)), 0
        atoms: list[Piece] = []
        for number, part in enumerate(head.parts):
            start, end = end, end + length(part)
            marks = [start, *(point for point in points if start < point < end), end]
            pieces = self.cut(part, gaps(marks), reason)
            atoms.extend((piece, ((head, number), *steps)) for piece, steps in pieces)
        return _gathered(atoms, sizes)

    def _restrict(self, factor: Factor, owner: Unknown, part: int) -> Term:
        if isinstance(factor, Uniform) or factor is owner:
            return (factor,)
        key = (factor, owner, part)
        if key in self.children:
            return self.children[key]
        if factor.parts:
            parts = tuple(self.restrict(term, ((owner, part),)) for term in factor.parts)
            if all(expand(old) == expand(new) for old, new in zip(factor.parts, parts, strict=True)):
                return (factor,)
            child = Unknown(factor.size)
            child.parts = parts
        elif factor.fixed or not self.may_depend(factor, owner):
            return (factor,)
        else:
            child = Unknown(factor.size)
        self.children[key] = (child,)
        return (child,)


def concat(terms: Sequence[Term]) -> Term:
    """Return the axis that lays others end to end.

    Args:
        terms: At least one.

    Returns:
        Their concatenation.
    """
    if len(terms) == 1:
        return terms[0]
    owner = Unknown(sum(length(term) for term in terms))
    owner.parts = tuple(terms)
    return (owner,)


def _gathered(atoms: Sequence[Piece], sizes: Sequence[int]) -> list[Piece]:
    """Lay small pieces together so that the results have the lengths that were asked for."""
    found: list[Piece] = []
    left = deque(atoms)
    for size in sizes:
        run: list[Piece] = []
        while sum(length(term) for term, _ in run) < size:
            run.append(left.popleft())
        found.append(run[0] if len(run) == 1 else (concat([term for term, _ in run]), ()))
    return found


def _count(terms: tuple[Term, ...], owner: Unknown) -> int:
    return sum(unknown is owner for term in terms for unknown in unknowns(term))
