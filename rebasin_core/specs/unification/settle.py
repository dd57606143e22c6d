"""Which axes may differ from one part of a concatenation to the next, once all is known."""

from __future__ import annotations

from itertools import combinations, starmap
from typing import TYPE_CHECKING, Final, cast, final

from rebasin_core.specs.unification.terms import Reason, Term, Unknown, expand, leaves, unknowns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rebasin_core.specs.unification.equations import Equations
    from rebasin_core.specs.unification.terms import Factor

_UNEQUAL: Final = Reason("slices", "the parts of an axis", "they are used differently")
_MOST_ROUNDS: Final = 200  # each makes or joins some slices, so that few suffice
_MOST_SLICES: Final = 256  # a fixed axis longer than that is not opened, to keep specifications readable


@final
class Slices:
    """Settles the children of all equations: axes that were restricted to parts of a concatenation.

    A child stays an axis of its own if its parent always stands beside the concatenation, and in parameters right of
    it, so that the parameter's axis can be written as a concatenation; else it is the parent after all.

    Args:
        equations: All equations of a graph.
        parameters: The terms of all parameters and buffers.
    """

    def __init__(self, equations: Equations, parameters: Sequence[tuple[Term, ...]]) -> None:
        self._equations = equations
        self._parameters = {id(terms): terms for terms in parameters}
        self._parents: dict[Unknown, set[Unknown]] = {}
        self._done: set[tuple[Unknown, Unknown, int, Term]] = set()
        self._tied: set[Unknown] = set()
        self._commuted: set[tuple[Unknown, Unknown, int, Unknown, int]] = set()

    def settle(self) -> None:
        """Join every child that cannot differ with its parent, and open fixed axes that others may depend on."""
        self._join_children()
        for _ in range(_MOST_ROUNDS):
            if not (self._open_fixed() or self._commute()):
                return
            self._join_children()
        for unknown in {unknown for unknown, _, _ in self._equations.children}:  # never seen to happen
            self.tie(unknown)

    def _join_children(self) -> None:
        changed = True
        while changed:
            changed = False
            self._parents = self._parents_now()
            for key, child in list(self._equations.children.items()):
                changed |= self._settled(key, child)

    def _settled(self, key: tuple[Unknown, Unknown, int], child: Term) -> bool:
        """Settle one child; return whether that changed anything."""
        unknown, owner, part = key
        children, reason = self._equations.children, _UNEQUAL
        if unknown.parts and unknown.term is None and owner.term is None:
            mark = (unknown, owner, part, child)
            if mark in self._done:
                return False
            self._done.add(mark)
            whole = Unknown(unknown.size)
            whole.parts = tuple(self._equations.restrict(term, ((owner, part),)) for term in unknown.parts)
            self._equations.join(child, (whole,), reason)
            return True
        if unknown.term is None and owner.term is None and not unknown.fixed and self._may_differ(unknown, owner):
            return False
        del children[key]
        if unknown.term is None and owner.term is None:
            self._equations.join(child, (unknown,), unknown.fixed or reason)
            return True
        (root,) = expand((owner,))
        if isinstance(root, Unknown):
            self._equations.join(child, self._equations.restrict((unknown,), ((root, part),)), reason)
        return True

    def _may_differ(self, unknown: Unknown, owner: Unknown, seen: frozenset[Unknown] = frozenset()) -> bool:
        """Return whether an axis, and all it is a slice of, always stands beside a concatenation and right of it."""
        if unknown in self._tied or not self._equations.may_depend(unknown, owner):
            return False
        owned = [terms for key, terms in unknown.sightings.items() if key in self._parameters]
        if not all(_stands_right_of(term, unknown, owner) for terms in owned for term in terms):
            return False
        owners, seen = (owner, *self._parents.get(owner, ())), seen | {unknown}
        parents = self._parents.get(unknown, set()) - seen
        return all(any(self._may_differ(parent, one, seen) for one in owners) for parent in parents)

    def _parents_now(self) -> dict[Unknown, set[Unknown]]:
        """Return what every unknown is a slice of."""
        found: dict[Unknown, set[Unknown]] = {}
        for (parent, _, _), child in self._equations.children.items():
            term = expand(child)
            if len(term) == 1 and isinstance(term[0], Unknown) and term[0] is not parent and parent.term is None:
                found.setdefault(term[0], set()).add(parent)
        return found

    def _open_fixed(self) -> bool:
        """Cut fixed axes that always stand left of a free one into their units; return whether there were any."""
        pairs: set[tuple[Unknown, Unknown]] = set()
        for terms in self._parameters.values():
            pairs.update(pair for term in terms for pair in _pairs(term))
        in_order: list[tuple[Unknown, Unknown]] = sorted(pairs, key=_age)
        opened = list(starmap(self._opened, in_order))
        return any(opened)

    def _commute(self) -> bool:
        """Let an axis restricted by two concatenations be the same in either order; return whether any was new."""
        beside: dict[Unknown, list[tuple[Unknown, int]]] = {}
        for unknown, owner, part in self._equations.children:
            if not unknown.parts:
                beside.setdefault(unknown, []).append((owner, part))
        found = self._lift(beside)
        for unknown, steps in beside.items():
            for one, other in combinations(steps, 2):
                mark = (unknown, *one, *other)
                if one[0] is other[0] or mark in self._commuted:
                    continue
                self._commuted.add(mark)
                first, second = (self._both(unknown, *order) for order in ((one, other), (other, one)))
                self._equations.join(first, second, _UNEQUAL)
                found = True
        return found

    def _lift(self, beside: Mapping[Unknown, Sequence[tuple[Unknown, int]]]) -> bool:
        """Let what differs in slices of an axis differ in the axis itself; return whether any was new."""
        children, found = self._equations.children, False
        for (unknown, owner, _), child in list(children.items()):
            for leaf in leaves(child):
                for other, part in beside.get(leaf, ()):
                    for one in (other, *self._parents.get(other, ())):
                        new = one is not owner and (unknown, one, part) not in children and not unknown.parts
                        if new and self._may_differ(unknown, one):
                            self._equations.restrict((unknown,), ((one, part),))
                            found = True
        return found

    def tie(self, unknown: Unknown) -> None:
        """Let an axis be the same in all slices.

        Args:
            unknown: The axis.
        """
        for key in [key for key in self._equations.children if key[0] is unknown]:
            self._equations.join(self._equations.children.pop(key), (unknown,), _UNEQUAL)
        self._tied.update(unknowns((unknown,)))

    def _both(self, unknown: Unknown, first: tuple[Unknown, int], second: tuple[Unknown, int]) -> Term:
        """Return an axis beside a part of one concatenation and of another, as that one is beside the first."""
        (owner,) = expand(self._equations.restrict((second[0],), (first,)))
        inside = self._equations.restrict((unknown,), (first,))
        return self._equations.restrict(inside, ((owner, second[1]),)) if isinstance(owner, Unknown) else inside

    def _opened(self, left: Unknown, right: Unknown) -> bool:
        if right.fixed or right.parts or right.term is not None or left.term is not None or left.size > _MOST_SLICES:
            return False
        if not (left.parts or left.fixed) or not self._may_differ(right, left):
            return False
        if not left.parts and left.fixed:
            self._equations.cut((left,), [1] * left.size, left.fixed)
        missing = [part for part in range(len(left.parts)) if (right, left, part) not in self._equations.children]
        for part in missing:
            self._equations.restrict((right,), ((left, part),))
        return bool(missing)


def _age(pair: tuple[Unknown, Unknown]) -> tuple[int, int]:
    return pair[0].number, pair[1].number


def rows(equations: Equations, terms: Sequence[Term]) -> Iterator[Term]:
    """Yield the factors of each cell of a tensor, one part chosen of every concatenation.

    Args:
        equations: Settled equations.
        terms: The axes of a tensor.

    Yields:
        Unknowns and uniform factors; concatenations only where it does not matter which part is chosen.
    """
    factors = [factor for term in terms for factor in expand(term)]
    place = next((place for place, factor in enumerate(factors) if _opens(equations, factor, factors)), None)
    if place is None:
        yield tuple(factors)
        return
    owner, before, after = cast("Unknown", factors[place]), tuple(factors[:place]), tuple(factors[place + 1 :])
    for part, term in enumerate(owner.parts):
        sides = [chosen_in(equations, side, owner, part) for side in (before, after)]
        yield from rows(equations, [sides[0], term, sides[1]])


def _opens(equations: Equations, factor: Factor, beside: Sequence[Factor]) -> bool:
    """Return whether it matters which part of a concatenation is chosen: something free is in it, or differs by it."""
    if not isinstance(factor, Unknown) or not factor.parts:
        return False
    if any(not leaf.fixed for leaf in leaves((factor,))):
        return True
    parts = range(len(factor.parts))
    others = [leaf for other in beside if other is not factor for leaf in unknowns((other,))]
    return any((other, factor, part) in equations.children for other in others for part in parts)


def chosen_in(equations: Equations, term: Term, owner: Unknown, part: int) -> Term:
    """Return what an axis is beside one part of a concatenation, once the equations are settled.

    Args:
        equations: Settled equations.
        term: The axis.
        owner: The concatenation.
        part: Which of its parts.

    Returns:
        The axis of its own, where there is one.
    """
    found: list[Factor] = []
    for factor in expand(term):
        child = equations.children.get((factor, owner, part)) if isinstance(factor, Unknown) else None
        found.extend((factor,) if child is None else expand(child))
    return tuple(found)


def _pairs(term: Term) -> Iterator[tuple[Unknown, Unknown]]:
    """Yield every factor of an axis with every leaf to the right of it."""
    factors = expand(term)
    for place, left in enumerate(factors):
        if not isinstance(left, Unknown):
            continue
        for right in factors[place + 1 :]:
            for leaf in leaves((right,)):
                yield left, leaf
    for factor in factors:
        if isinstance(factor, Unknown):
            for part in factor.parts:
                yield from _pairs(part)


def _stands_right_of(term: Term, unknown: Unknown, owner: Unknown) -> bool:
    """Return whether a leaf stands in an axis only to the right of another factor, or of what that is a part of."""
    for factor in expand(term):
        if any(found is owner for found in unknowns((factor,))):
            return factor is owner or all(_stands_right_of(part, unknown, owner) for part in _parts(factor, owner))
        if factor is unknown:
            return False
        if not all(_stands_right_of(part, unknown, owner) for part in _parts(factor, owner)):
            return False
    return True


def _parts(factor: Factor, owner: Unknown) -> tuple[Term, ...]:
    return factor.parts if isinstance(factor, Unknown) and factor is not owner else ()
