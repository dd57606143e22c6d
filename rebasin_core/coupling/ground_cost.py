"""Ground costs of transport between units, from weights or activations."""

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
    r"""Squared distances between the incoming weights of units of a reference and of a candidate.

    $$ C_{ij} = \sum_w \lVert w^0_{i\cdot} - w^1_{j\cdot} \rVert^2 $$

    summed over all tensors $w$ that compute the units of the group, after the plans of other groups were applied to the
    other axes of the candidate. Tensors with an axis whose group has no plan yet are omitted.

    Args:
        coupling: The layouts and the input axes; its plans are not used.
        reference: Channels ``[C, *s]`` of the reference by name.
        candidate: Channels of the candidate by name.
        families: The groups that are coupled, with the groups nested directly in each.
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
        self._coupled = frozenset(families).union(*families.values())
        self._norms = {name: float(torch.linalg.vector_norm(tensor)) for name, tensor in reference.items()}
        # The tensors that compute the units of each group, with the axes along which they do.
        self._producers: dict[str, list[tuple[str, tuple[int, ...]]]] = {group: [] for group in families}
        for name in reference:
            axes = coupling.layout.axes[name]
            for linked in linked_axes(coupling.layout, name):
                if not any((name, index) in coupling.input_axes for index in linked):
                    groups = {atom.group for index in linked for atom in atoms_of(axes[index])}
                    for group in families.keys() & groups:
                        self._producers[group].append((name, linked))

    def share_known(self, group: str, coupled: Collection[str]) -> float:
        """Return the share of the incoming weights of a group that can be compared, by the norms of the tensors.

        Args:
            group: Name of the group.
            coupled: Groups that have plans.

        Returns:
            The share, in [0, 1].
        """
        total = sum(self._norms[name] for name, _ in self._producers[group])
        known = sum(
            self._norms[name] for name, linked in self._producers[group] if self._is_known(name, linked, coupled)
        )
        return known / total if total > 0 else 0.0

    def costs(self, group: str, plans: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the squared distances between the units of a group, and of the groups nested in it.

        Args:
            group: Name of the group.
            plans: Plans of the groups that are already coupled.

        Returns:
            ``[n_reference, n_candidate]`` in float64 for the group, ``[H, m, H', m']`` for the groups nested in it.
            Groups without a tensor to compare are omitted.
        """
        given = self._coupling
        coupling = Coupling(given.layout, given.candidate_layout, plans, {}, given.input_axes)
        found: dict[str, Tensor] = {}
        for name, linked in self._producers[group]:
            if self._is_known(name, linked, plans):
                mapped = coupling.map_tensor(name, self._candidate[name], skip=linked)
                for unit, left, right in self._units(name, linked, group, mapped):
                    distances = _squared_distances(left, right)
                    found[unit] = found[unit] + distances if unit in found else distances
        return found

    def _is_known(self, name: str, linked: Collection[int], coupled: Collection[str]) -> bool:
        """Return whether all groups on the other axes of a tensor have plans."""
        axes = self._coupling.layout.axes[name]
        others = (atom.group for k, axis in enumerate(axes) if k not in linked for atom in atoms_of(axis))
        return all(group in coupled for group in others if group in self._coupled)

    def _units(
        self, name: str, linked: Collection[int], group: str, mapped: Tensor
    ) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Yield a group, or one nested in it, and its units in both networks, for each cell of a tensor.

        Shapes are ``[n, rest]``, or ``[H, m, rest]`` for nested units.
        """
        own = only(self._coupling.layout.axes[name], linked)
        candidate = self._coupling.candidate_layout.axes[name]
        other = [candidate[index] if index in linked else axis for index, axis in enumerate(own)]
        for (left, atoms), (right, _) in zip(cells(self._reference[name], own), cells(mapped, other), strict=True):
            names = [atom.group for atom in atoms]
            present = [unit for unit in names if unit in self._coupled]
            inner = [unit for unit in present if unit in self._families[group]]
            expected = [group, *inner]
            if sorted(map(str, present)) == sorted(expected):
                dims = [1 + names.index(unit) for unit in expected]
                first = left.movedim(dims, [*range(len(dims))]).flatten(len(dims))
                second = right.movedim(dims, [*range(len(dims))]).flatten(len(dims))
                yield expected[-1], first, second


def activation_costs(
    families: Families, axes: tuple[Axis, Axis], distances: Tensor
) -> Iterator[tuple[str, str, Tensor]]:
    """Yield the blocks of a matrix of distances between activations that belong to one group.

    Args:
        families: The groups that are coupled, with the groups nested directly in each.
        axes: Axes of the activations of the reference and of the candidate.
        distances: Distances between all activations, ``[units, units]``.

    Yields:
        The outermost group, the group of the block (the same, or one nested in it), and the block: ``[n, n']``, or
        ``[H, m, H', m']`` for a nested group.
    """
    sides = (cells(torch.arange(side.size, device=distances.device), (side,)) for side in axes)
    for (rows, atoms), (columns, _) in zip(*sides, strict=True):
        names = [str(atom.group) for atom in atoms]
        for group in (name for name in names if name in families):
            present = [group, *(name for name in names if name in families[group])]
            # A block of heads without the width inside them would be compared with that width in the given order.
            is_complete = len(present) > 1 or not families[group]
            if is_complete and len(present) == len(names):
                order = [names.index(name) for name in present]
                first = rows.permute(order)
                second = columns.permute(order)
                part = distances[first.flatten()][:, second.flatten()]
                yield group, present[-1], part.reshape(*first.shape, *second.shape)


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Return the squared distances ``[*m, *n]`` between all ``[*m, rest]`` and all ``[*n, rest]``, in float64."""
    rows = left.flatten(0, -2)
    columns = right.flatten(0, -2)
    squares = rows.square().sum(1).unsqueeze(1) + columns.square().sum(1)
    distances = (squares - 2 * rows @ columns.T).clamp_min(0).double()
    return distances.reshape(*left.shape[:-1], *right.shape[:-1])
