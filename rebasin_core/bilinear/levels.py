"""Levels of nested groups: which groups are assigned jointly, and their units within all units around them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.bilinear.terms import Term
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True)
class Level:
    """The units of a group, numbered through all units of the groups around it up to a group ``top``.

    Attributes:
        layout: The groups.
        top: The outermost of these groups. Groups around it are batch dimensions.
        name: The group; ``top`` itself, or nested in it at any depth.
    """

    layout: Layout
    top: str
    name: str

    @property
    def chain(self) -> tuple[str, ...]:
        """The groups from ``top`` to the group."""
        return (*self.layout.ancestors(self.name), self.name)[len(self.layout.ancestors(self.top)) :]

    @property
    def inner(self) -> tuple[str, ...]:
        """The groups nested directly in the group."""
        return tuple(name for name, group in self.layout.groups.items() if group.within == self.name)

    @property
    def outer(self) -> tuple[int, ...]:
        """The sizes of the groups around ``top``."""
        return self.layout.index_shape(self.top)[:-1]

    @property
    def size(self) -> int:
        """The number of units, within one unit of the groups around ``top``."""
        return prod(self.layout.groups[name].size for name in self.chain)

    def positions(self, term: Term) -> tuple[int, ...]:
        """Return the positions of the groups from ``top`` to the group among the atoms of a term.

        Args:
            term: A term on which they act.

        Returns:
            One position for each group.
        """
        return tuple(term.positions(name)[0] for name in self.chain)

    def batch(self, term: Term) -> list[int]:
        """Return the positions of the groups around ``top`` among the atoms of a term.

        Args:
            term: A term on which they act.

        Returns:
            One position for each group.
        """
        return [term.positions(name)[0] for name in self.layout.ancestors(self.top)]

    def index(self, indices: Mapping[str, Tensor]) -> Tensor:
        """Return the permutation of all units by the group and the groups around it.

        Args:
            indices: The permutation of every group.

        Returns:
            ``[*outer, N]`` for N units.
        """
        total = indices[self.top]
        for name in self.chain[1:]:
            width = self.layout.groups[name].size
            own = indices[name].reshape(*total.shape, width)
            total = (total.unsqueeze(-1) * width + own).flatten(-2)
        return total


def nested_in(layout: Layout, name: str) -> tuple[str, ...]:
    """Return the groups that are nested in a group, at any depth.

    Args:
        layout: The groups.
        name: Name of the outer group.

    Returns:
        The nested groups.
    """
    return tuple(other for other in layout.groups if name in layout.ancestors(other))


def innermost(layout: Layout, name: str, term: Term) -> list[str]:
    """Return the innermost of the groups nested in a group that act on a term.

    Args:
        layout: The groups.
        name: Name of the outer group.
        term: A term.

    Returns:
        Groups in which no other group of the term is nested, one for each axis on which they act.
    """
    around = {layout.groups[group].within for group in term.groups}
    return [group for group in term.groups if name in layout.ancestors(group) and group not in around]


def nested_jointly(layout: Layout, name: str, terms: Sequence[Term]) -> tuple[str, ...]:
    """Return the groups nested in a group, at any depth, if all of them can be assigned jointly with it.

    Args:
        layout: The groups.
        name: Name of the outer group.
        terms: The terms on which it acts.

    Returns:
        The nested groups; empty if there are none, or if a term couples groups nested in different ones.
    """
    levels = [{layout.groups[group].within for group in innermost(layout, name, term)} for term in terms]
    return nested_in(layout, name) if all(len(level) <= 1 for level in levels) else ()


def is_coupled(layout: Layout, name: str, terms: Sequence[Term]) -> bool:
    """Return whether a term has axes of several groups that are nested in the same one.

    Args:
        layout: The groups.
        name: Name of the outer group.
        terms: The terms on which it acts.

    Returns:
        Whether there is such a term.
    """
    return any(len(innermost(layout, name, term)) > 1 for term in terms)
