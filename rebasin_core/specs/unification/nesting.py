"""Which groups lie within which, and which are one."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING, final

from rebasin_core.specs.unification.settle import rows
from rebasin_core.specs.unification.terms import Unknown, expand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.unification.equations import Equations


@final
class Companions:
    """For every free axis, the free axes that stand beside it in every tensor.

    An axis may be permuted differently in every unit of its companions: nothing ever sees it without them.

    Args:
        equations: Settled equations.
    """

    def __init__(self, equations: Equations) -> None:
        self._always: dict[Unknown, set[Unknown]] = {}
        seen: set[tuple[object, ...]] = set()
        for terms in dict.fromkeys(tuple(map(expand, terms)) for terms in equations.tensors):
            for row in rows(equations, terms):
                free = tuple(f for f in row if isinstance(f, Unknown) and not f.fixed and not f.parts)
                if free in seen:
                    continue
                seen.add(free)
                counts = Counter(free)
                once = {unknown for unknown, count in counts.items() if count == 1}
                for unknown in counts:
                    beside = once - {unknown}
                    self._always[unknown] = self._always[unknown] & beside if unknown in self._always else beside

    def of(self, unknown: Unknown) -> set[Unknown]:
        """Return the companions of an axis.

        Args:
            unknown: A free leaf.

        Returns:
            Free leaves.
        """
        return self._always.get(unknown, set())

    def inseparable(self, first: Unknown, second: Unknown) -> bool:
        """Return whether each of two axes is a companion of the other.

        Args:
            first: A free leaf.
            second: Another.

        Returns:
            Whether nothing sees one without the other.
        """
        return second in self.of(first) and first in self.of(second)


def parents(companions: Companions, order: Sequence[Unknown]) -> dict[Unknown, Unknown | None]:
    """Return for every free axis the one it lies within.

    Groups nest in chains: of the companions, the one is chosen that gives the most permutations to choose.

    Args:
        companions: What always stands beside what.
        order: All free leaves in parameters, from outer to inner where two are inseparable.

    Returns:
        The parent of each, or None.
    """
    ranks = {unknown: rank for rank, unknown in enumerate(order)}

    def outside(unknown: Unknown) -> list[Unknown]:
        return [
            other
            for other in companions.of(unknown)
            if other in ranks and (not companions.inseparable(unknown, other) or ranks[other] < ranks[unknown])
        ]

    found: dict[Unknown, Unknown | None] = {}
    chains: dict[Unknown, tuple[Unknown, ...]] = {}
    for unknown in sorted(order, key=lambda item: (len(outside(item)), ranks[item])):
        choices = [other for other in outside(unknown) if other in chains]
        best = max(choices, key=lambda other: (_weight(chains[other]), -ranks[other]), default=None)
        found[unknown] = best
        chains[unknown] = (*(chains[best] if best is not None else ()), unknown)
    return found


def _weight(chain: tuple[Unknown, ...]) -> int:
    return prod(unknown.size for unknown in chain)
