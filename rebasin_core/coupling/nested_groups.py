"""Families: a group with the groups directly within it, such as heads with their widths, coupled together."""

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


def families_of(layout: Layout) -> Families:
    """Return the groups that can be coupled: those in no other one, each with the groups directly within it.

    A group is left out if something lies deeper in it, or if a tensor holds two of the groups within it side by side.

    Args:
        layout: The symmetries.

    Returns:
        The groups within, by the group around them; none for most.
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
    """Return the axes of a tensor in sets that are carried together: units, and the units that they lie within.

    Args:
        layout: The symmetries.
        tensor: A tensor of it.

    Returns:
        Every axis in one set, most of them alone.
    """
    sets = [{number} for number in range(len(layout.axes[tensor]))]
    held = [{str(atom.group) for atom in atoms_of(axis) if atom.group} for axis in layout.axes[tensor]]
    for number, names in enumerate(held):
        around = {layout.groups[name].within for name in names} - {None}
        for other in (other for other, beside in enumerate(held) if beside & around):
            both = sets[number] | sets[other]
            sets = [both if k in both else known for k, known in enumerate(sets)]
    return sorted({tuple(sorted(linked)) for linked in sets})


def family_plans(
    solver: TransportSolver, own: Tensor | None, within: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    r"""Return the plans of a group and of the groups within it.

    For every pair of heads, the plan between their widths is found first; what it costs is what the pair of heads
    costs. A width is then carried as far as its head is:

    $$ T_{hw,h'w'} = T_{hh'} \, T^{hh'}_{ww'} $$

    Args:
        solver: Finds a plan.
        own: ``[H, H']``: what carrying the units of the group costs apart from those within, if anything.
        within: ``[H, m, H', m']`` for each group within: what carrying a unit there costs.

    Returns:
        The plan ``[H, H']`` of the group, those ``[H, m, H', m']`` of the groups within, and the cost of the first.
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
        plans: Their plans, between equally many units.
        costs: What these are made from.

    Returns:
        An index ``[n]``, or ``[H, m]``, for every group that has a plan.
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


def carried_cost(families: Families, costs: Mapping[str, Tensor], indices: Mapping[str, Tensor]) -> float:
    """Return what a permutation carries, summed over all groups; a group with others within counts by those.

    Args:
        families: The groups.
        costs: ``[n, n]``, or ``[H, m, H, m]`` for a group within another one.
        indices: The permutation.

    Returns:
        A number.
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
