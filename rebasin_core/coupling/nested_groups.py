"""Plans of groups with the groups nested in them, such as attention heads and the width inside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from rebasin_core.symmetry.axis import atoms_of
from rebasin_core.symmetry.cell import atom_rows
from rebasin_core.tensors.optimal_transport import TransportSolver, nearest_permutation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout

Families: TypeAlias = "dict[str, tuple[str, ...]]"
"""The groups that are coupled; for each, the groups nested directly in it (none for most groups)."""


def families_of(layout: Layout) -> Families:
    """Return the groups that can be coupled: those that are not nested, each with the groups nested directly in it.

    A group is omitted if it has deeper nesting, or if two of its nested groups act on the same cell of a tensor.

    Args:
        layout: The layout.

    Returns:
        For each group that can be coupled, its nested groups.
    """
    rows = [{atom.group for atom in row} for axes in layout.axes.values() for row in atom_rows(axes)]
    found: Families = {}
    for name, group in layout.groups.items():
        inner = {other for other in layout.groups if name in layout.ancestors(other)}
        shallow = all(layout.ancestors(other) == (name,) for other in inner)
        if group.within is None and shallow and all(len(inner & row) <= 1 for row in rows):
            found[name] = tuple(sorted(inner))
    return found


def linked_axes(layout: Layout, tensor: str) -> list[tuple[int, ...]]:
    """Return the axes of a tensor in sets that are mapped jointly: nested groups, and the groups around them.

    Args:
        layout: The layout.
        tensor: Name of a tensor.

    Returns:
        Sets of axis indices, each axis in one set; most sets have one axis.
    """
    sets = [{index} for index in range(len(layout.axes[tensor]))]
    groups = [{str(atom.group) for atom in atoms_of(axis) if atom.group} for axis in layout.axes[tensor]]
    for index, names in enumerate(groups):
        outer = {layout.groups[name].within for name in names} - {None}
        for other in (other for other, present in enumerate(groups) if present & outer):
            both = sets[index] | sets[other]
            sets = [both if k in both else known for k, known in enumerate(sets)]
    return sorted({tuple(sorted(linked)) for linked in sets})


def family_plans(
    solver: TransportSolver, own: Tensor | None, within: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    r"""Return the plans of a group and of the groups nested in it.

    For every pair of heads $h, h'$, the plan $T^{hh'}$ between the $m$ units inside them is solved first. Its cost,
    times $m$, is added to the ground cost of the pair. The plan of a nested group is the product

    $$ T_{hw,h'w'} = T_{hh'} \, T^{hh'}_{ww'} $$

    Args:
        solver: Solver of the transport problems.
        own: Ground cost ``[H, H']`` of the group apart from its nested groups; None if there is none.
        within: Ground cost ``[H, m, H', m']`` of each nested group.

    Returns:
        The plan ``[H, H']`` of the group, the plans ``[H, m, H', m']`` of its nested groups, and the total ground cost
        ``[H, H']`` of the group.
    """
    parts = [] if own is None else [own]
    inner = {}
    for name, cost in within.items():
        pairs = cost.movedim(2, 1)
        plans = torch.stack([torch.stack([solver.plan(pair) for pair in row]) for row in pairs])
        parts.append((plans * pairs).sum((-2, -1)) * pairs.shape[-2])
        inner[name] = plans.movedim(1, 2)
    total = torch.stack(parts).sum(0)
    outer = solver.plan(total)
    return outer, {name: outer[:, None, :, None] * plans for name, plans in inner.items()}, total


def nearest_permutations(
    families: Families, plans: Mapping[str, Tensor], costs: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the permutations nearest to plans.

    Args:
        families: The groups.
        plans: Plans of the groups, square.
        costs: Ground costs of the plans, of the same shapes.

    Returns:
        For every group with a plan, an index ``[n]``, or ``[H, m]`` for a nested group.
    """
    found: dict[str, Tensor] = {}
    for name, within in families.items():
        if name in plans:
            found[name] = nearest_permutation(plans[name], costs[name])
        for inner in (inner for inner in within if inner in plans):
            pairs = [(heads, int(other)) for heads, other in enumerate(found[name])]
            found[inner] = torch.stack([
                nearest_permutation(plans[inner][h, :, g], costs[inner][h, :, g]) for h, g in pairs
            ])
    return found


def permutation_cost(families: Families, costs: Mapping[str, Tensor], indices: Mapping[str, Tensor]) -> float:
    """Return the total ground cost of a permutation; of groups with nested groups, only the costs of the latter count.

    Args:
        families: The groups.
        costs: Ground costs ``[n, n]``, or ``[H, m, H, m]`` for a nested group.
        indices: The permutation, an index for every group.

    Returns:
        The total cost.
    """
    total = 0.0
    for name, within in families.items():
        index = indices[name]
        if name in costs and not any(inner in costs for inner in within):
            total += costs[name].gather(1, index.to(costs[name].device).unsqueeze(1)).sum().item()
        for inner in (inner for inner in within if inner in costs):
            cost = costs[inner]
            outer = index.to(costs[inner].device)
            columns = indices[inner]
            pairs = cost.movedim(2, 1)[torch.arange(len(outer), device=cost.device), outer]
            total += pairs.gather(2, columns.to(cost.device).unsqueeze(2)).sum().item()
    return total
