"""Ground costs of transport between units: how far apart they are, by weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.coupling.coupling import Coupling, only
from rebasin_core.coupling.nested_groups import linked_axes
from rebasin_core.symmetry.axis import atoms_of
from rebasin_core.symmetry.cell import cells

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor

    from rebasin_core.coupling.nested_groups import Families
    from rebasin_core.symmetry.axis import Axis


@final
class WeightCosts:
    r"""Squared distances between the weights that compute units, of a reference and of a transformed candidate.

    $$ C_{ij} = \sum \lVert w^0_{i\cdot} - w^1_{j\cdot} \rVert^2 $$

    summed over every tensor that computes the units of the group, after the plans known so far have acted on the other
    axes of the candidate.

    Args:
        coupling: The layouts, and the axes along which units are read; its plans are not used.
        reference: Channels ``[C, *s]`` by name.
        candidate: The same of the candidate.
        families: The groups that are coupled, with those directly within each.
    """

    def __init__(
        self,
        coupling: Coupling,
        reference: Mapping[str, Tensor],
        candidate: Mapping[str, Tensor],
        families: Families,
    ) -> None:
        self._coupling = coupling
        self._reference = reference
        self._candidate = candidate
        self._families = families
        self._free = frozenset(families).union(*families.values())
        self._norms = {name: float(torch.linalg.vector_norm(tensor)) for name, tensor in reference.items()}
        self._makers: dict[str, list[tuple[str, tuple[int, ...]]]] = {group: [] for group in families}
        for name in reference:
            axes = coupling.layout.axes[name]
            for linked in linked_axes(coupling.layout, name):
                if not any((name, number) in coupling.consuming for number in linked):
                    held = {atom.group for number in linked for atom in atoms_of(axes[number])}
                    for group in families.keys() & held:
                        self._makers[group].append((name, linked))

    def share_known(self, group: str, settled: Collection[str]) -> float:
        """Return how much of what makes a group's units can be compared when other groups are settled.

        Args:
            group: The group.
            settled: Groups that have plans.

        Returns:
            Between 0 and 1, by the norms of the tensors.
        """
        everything = sum(self._norms[name] for name, _ in self._makers[group])
        known = sum(self._norms[name] for name, linked in self._makers[group] if self._open(name, linked, settled))
        return known / everything if everything > 0 else 0.0

    def costs(self, group: str, plans: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared distances between the units of a group, and of the groups within it.

        Args:
            group: The group.
            plans: Of the groups that are settled.

        Returns:
            ``[n_reference, n_candidate]`` in float64 for the group, ``[H, m, H', m']`` for those within; none where
            nothing can be compared.
        """
        given = self._coupling
        coupling = Coupling(given.layout, given.candidate_layout, plans, {}, given.consuming)
        found: dict[str, Tensor] = {}
        for name, linked in self._makers[group]:
            if self._open(name, linked, plans):
                moved = coupling.moved(name, self._candidate[name], skip=linked)
                for unit, left, right in self._units(name, linked, group, moved):
                    distances = _squared_distances(left, right)
                    found[unit] = found[unit] + distances if unit in found else distances
        return found

    def _open(self, name: str, linked: Collection[int], settled: Collection[str]) -> bool:
        """Return whether all other axes of a tensor can be moved."""
        axes = self._coupling.layout.axes[name]
        others = (atom.group for k, axis in enumerate(axes) if k not in linked for atom in atoms_of(axis))
        return all(group in settled for group in others if group in self._free)

    def _units(
        self, name: str, linked: Collection[int], group: str, moved: Tensor
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield a group, or one within it, and its units in both networks, for each cell of a tensor.

        Shapes are ``[n, rest]``, or ``[H, m, rest]`` for units within others.
        """
        own = only(self._coupling.layout.axes[name], linked)
        candidate = self._coupling.candidate_layout.axes[name]
        other = [candidate[number] if number in linked else axis for number, axis in enumerate(own)]
        for (left, atoms), (right, _) in zip(cells(self._reference[name], own), cells(moved, other), strict=True):
            names = [atom.group for atom in atoms]
            held = [unit for unit in names if unit in self._free]
            inner = [unit for unit in held if unit in self._families[group]]
            expected = [group, *inner]
            if sorted(map(str, held)) == sorted(expected):
                dims = [1 + names.index(unit) for unit in expected]
                first = left.movedim(dims, [*range(len(dims))]).flatten(len(dims))
                second = right.movedim(dims, [*range(len(dims))]).flatten(len(dims))
                yield expected[-1], first, second


def activation_costs(
    families: Families, axes: tuple[Axis, Axis], distances: Tensor
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the parts of distances between activations that are distances between the units of one group.

    Args:
        families: The groups that are coupled, with those directly within each.
        axes: The axes of the activations of the reference, and of the candidate.
        distances: ``[units, units]``.

    Yields:
        The group that lies in no other one, the group itself or one within it, and ``[n, n']`` or ``[H, m, H', m']``.
    """
    sides = (cells(torch.arange(side.size, device=distances.device), (side,)) for side in axes)
    for (rows, atoms), (columns, _) in zip(*sides, strict=True):
        names = [str(atom.group) for atom in atoms]
        for group in (name for name in names if name in families):
            held = [group, *(name for name in names if name in families[group])]
            whole = len(held) > 1 or not families[group]  # heads alone would be compared with their widths in order
            if whole and len(held) == len(names):
                order = [names.index(name) for name in held]
                first = rows.permute(order)
                second = columns.permute(order)
                part = distances[first.flatten()][:, second.flatten()]
                yield group, held[-1], part.reshape(*first.shape, *second.shape)


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return squared distances in float64: ``[*m, *n]`` of all ``[*m, rest]`` from all ``[*n, rest]``."""
    rows = left.flatten(0, -2)
    columns = right.flatten(0, -2)
    squares = rows.square().sum(1).unsqueeze(1) + columns.square().sum(1)
    distances = (squares - 2 * rows @ columns.T).clamp_min(0).double()
    return distances.reshape(*left.shape[:-1], *right.shape[:-1])
