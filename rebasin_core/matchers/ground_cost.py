"""Ground costs of transport between units: how far apart they are, by weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.matchers.coupling import Coupling, only
from rebasin_core.symmetry.axis import atoms_of
from rebasin_core.symmetry.cells import cells

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor


@final
class WeightCosts:
    r"""Squared distances between the weights by which units are made, of a reference and of a moved candidate.

    $$ C_{ij} = \sum \lVert w^0_{i\cdot} - w^1_{j\cdot} \rVert^2 $$

    summed over every tensor that puts out the group, the other axes of the candidate moved by the plans known so far.

    Args:
        coupling: The layouts, and which axes take in; its plans are not used.
        reference: Channels ``[C, *s]`` by name.
        candidate: The same of the candidate.
        free: The groups that are coupled.
    """

    def __init__(
        self,
        coupling: Coupling,
        reference: Mapping[str, Tensor],
        candidate: Mapping[str, Tensor],
        free: Collection[str],
    ) -> None:
        self._coupling, self._reference, self._candidate = coupling, reference, candidate
        self._free = frozenset(free)
        self._norms = {name: float(torch.linalg.vector_norm(tensor)) for name, tensor in reference.items()}
        self._makers: dict[str, list[tuple[str, int]]] = {group: [] for group in free}
        for name in reference:
            for number, axis in enumerate(coupling.layout.axes[name]):
                if (name, number) not in coupling.consuming:
                    for group in {str(atom.group) for atom in atoms_of(axis) if atom.group in self._free}:
                        self._makers[group].append((name, number))

    def share_known(self, group: str, settled: Collection[str]) -> float:
        """Return how much of what makes a group's units can be compared when other groups are settled.

        Args:
            group: The group.
            settled: Groups that have plans.

        Returns:
            Between 0 and 1, by the norms of the tensors.
        """
        everything = sum(self._norms[name] for name, _ in self._makers[group])
        known = sum(self._norms[name] for name, number in self._makers[group] if self._open(name, number, settled))
        return known / everything if everything > 0 else 0.0

    def cost(self, group: str, plans: Mapping[str, Tensor]) -> Tensor | None:
        """Return the squared distances between the units of a group.

        Args:
            group: The group.
            plans: Of the groups that are settled.

        Returns:
            ``[n_reference, n_candidate]`` in float64; None if nothing can be compared.
        """
        given = self._coupling
        coupling = Coupling(given.layout, given.candidate_layout, plans, {}, given.consuming)
        total: Tensor | None = None
        for name, number in self._makers[group]:
            if self._open(name, number, plans):
                moved = coupling.moved(name, self._candidate[name], skip=number)
                for left, right in self._rows(name, number, group, moved):
                    squares = left.square().sum(1).unsqueeze(1) + right.square().sum(1)
                    part = (squares - 2 * left @ right.T).clamp_min(0).double()
                    total = part if total is None else total + part
        return total

    def _open(self, name: str, number: int, settled: Collection[str]) -> bool:
        """Return whether all other axes of a tensor can be moved."""
        axes = self._coupling.layout.axes[name]
        others = (atom.group for k, axis in enumerate(axes) if k != number for atom in atoms_of(axis))
        return all(group in settled for group in others if group in self._free)

    def _rows(self, name: str, number: int, group: str, moved: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the units of a group as rows, of both networks, for each cell of a tensor."""
        own = only(self._coupling.layout.axes[name], number)
        other = [*own[:number], self._coupling.candidate_layout.axes[name][number], *own[number + 1 :]]
        for (left, atoms), (right, _) in zip(cells(self._reference[name], own), cells(moved, other), strict=True):
            places = [place for place, atom in enumerate(atoms) if atom.group == group]
            alone = {atom.group for atom in atoms if atom.group in self._free} == {group}
            if len(places) == 1 and alone:
                first, second = (t.movedim(1 + places[0], 0).flatten(1) for t in (left, right))
                yield first, second
