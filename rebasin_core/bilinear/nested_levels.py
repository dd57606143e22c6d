"""Joint assignment of a group and all groups nested in it: assignments of assignments, from the innermost outwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.levels import Level, innermost, nested_in
from rebasin_core.bilinear.two_levels import TwoLevels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.assignment import AssignmentSolver
    from rebasin_core.bilinear.pair_products import PairProducts
    from rebasin_core.bilinear.terms import Term
    from rebasin_core.symmetry.layout import Layout


@final
class NestedLevels:
    r"""Values of all pairs of units of a group, each with the best assignment of the groups nested in it, at any depth.

    The value of a pair of units is that of the best assignment of the units in them, recursively:

    $$ V^{(k)}_{ij} = S^{(k)}_{ij} + \sum_{\text{nested}} \max_q \sum_a V^{(k+1)}_{(i, a), (j, q(a))} $$

    where $S^{(k)}$ are the inner products by the terms on which no deeper group acts. The levels are solved from the
    innermost outwards, each by `TwoLevels` for all pairs of units of the levels around it. The result is exact if no
    groups of a level are coupled.

    Args:
        layout: The groups.
        name: The outer group.
        terms: Terms on which it acts and at least one nested group.
        indices: Current permutations of all groups. The result does not depend on those of the group and within it.
        solver: Solver of the assignment problems.
        pairs: Kept inner products of all pairs of units; None if they are computed for this result only.

    Complexity:
        That of `TwoLevels` for each group with nested groups, where n is the number of units of all levels around.
    """

    def __init__(
        self,
        layout: Layout,
        name: str,
        terms: Sequence[Term],
        indices: Mapping[str, Tensor],
        solver: AssignmentSolver,
        *,
        pairs: PairProducts | None = None,
    ) -> None:
        self._top = Level(layout, name, name)
        levels = [Level(layout, name, each) for each in (name, *nested_in(layout, name))]
        terms_of: dict[str | None, list[Term]] = {level.name: [] for level in levels}
        for term in terms:
            terms_of[layout.groups[innermost(layout, name, term)[0]].within].append(term)
        # The innermost levels first.
        self._blocks = [
            (level, TwoLevels(level, terms_of[level.name], indices, solver, pairs=pairs))
            for level in sorted(levels, key=lambda level: len(level.chain), reverse=True)
            if level.inner
        ]

    @property
    def is_exact(self) -> bool:
        """Whether no nested groups are coupled."""
        return all(block.is_exact for _, block in self._blocks)

    def solve(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the values of all pairs of units, and the assignments of all nested groups.

        Returns:
            ``[*outer, n, n]`` for n units of the group, and for every nested group ``[*outer, n, n, m]``, where m is
            its number of units in each of the n, through all levels between.
        """
        values: dict[str, Tensor] = {}
        choices: dict[str, Tensor] = {}
        for level, block in self._blocks:
            below = {child: _by_outer_unit(level, values[child]) for child in level.inner if child in values}
            values[level.name], found = block.solve(below)
            choices |= found
        return values[self._top.name], self._within(choices)

    def current(self) -> Tensor:
        """Return the values of the current pairs of units with the current assignments within, if these are exact.

        Returns:
            ``[*outer, n]``.
        """
        shape = (*self._top.outer, self._top.size, -1)
        parts = [block.current().reshape(shape).sum(-1) for _, block in self._blocks]
        return sum(parts[1:], parts[0])

    def _within(self, choices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the assignments within each pair of units of the group, from those for pairs at all levels."""
        size = self._top.size
        found: dict[str, Tensor] = {}
        # For each pair of units i and j, the units in j that are assigned to those in i, numbered through all levels.
        assigned = {self._top.name: torch.arange(size).expand(*self._top.outer, size, size).unsqueeze(-1)}
        for level, _ in reversed(self._blocks):
            others = assigned[level.name]
            for child in level.inner:
                choice = choices[child]
                width = choice.shape[-1]
                # [*outer, n, 1, units in i, all units, width]
                options = choice.view(*self._top.outer, size, 1, -1, level.size, width)
                index = others.to(choice.device)[..., None, None]
                chosen = torch.take_along_dim(options, index, dim=-2).squeeze(-2)
                found[child] = chosen.flatten(-2)
                assigned[child] = (index.squeeze(-1) * width + chosen).flatten(-2)
        return found


def chosen_within(layout: Layout, within: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Return the permutations of nested groups that belong to an assignment of the outer group.

    Args:
        layout: The groups.
        within: For every nested group, its permutation for each pair of outer units, ``[*outer, n, n, m]``.
        index: The assignment, ``[*outer, n]``.

    Returns:
        The index of every nested group.
    """
    found = {}
    for child, choice in within.items():
        pairs = index[..., None, None].expand(*index.shape, 1, choice.shape[-1])
        found[child] = choice.gather(-2, pairs).reshape(layout.index_shape(child))
    return found


def _by_outer_unit(level: Level, values: Tensor) -> Tensor:
    """Return values of all pairs of units of a nested group as ``[*outer, n, n, m, m]`` for n units of the level."""
    size = level.size
    width = values.shape[-1] // size
    return values.view(*level.outer, size, width, size, width).transpose(-3, -2)
