"""How alike the units of two networks are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.symmetry.cells import cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class UnitSimilarity:
    """How alike the units of one group are in two networks.

    Attributes:
        cosines: ``[n, n]`` in float64: between each unit of the reference and each of the candidate.
        norms: ``[n]``: the norms of the reference's units.
    """

    cosines: Tensor
    norms: Tensor


def unit_similarities(
    layout: Layout, reference: Mapping[str, Tensor], candidate: Mapping[str, Tensor]
) -> dict[str, UnitSimilarity]:
    r"""Return the cosines between the weights of the units of two networks, everything else as it stands.

    $$ C_{ij} = \frac{\langle w^0_i, w^1_j \rangle}{\lVert w^0_i \rVert\, \lVert w^1_j \rVert} $$

    with all weights of a unit, incoming and outgoing, in one vector $w$. On the diagonal stands what a group element
    gains: of aligned networks, it is large there.

    Args:
        layout: The symmetries.
        reference: Parameters by name.
        candidate: The same of the other network.

    Returns:
        For every group that is not within another one.
    """
    sides = ({name: tensor.unsqueeze(0) for name, tensor in side.items()} for side in (reference, candidate))
    solver = CoordinateDescent(layout, *sides)
    found: dict[str, UnitSimilarity] = {}
    for name, group in layout.groups.items():
        if group.within is None:
            first, second = (_norms(layout, side, name) for side in (reference, candidate))
            cosines = solver.similarity(name) / (first.unsqueeze(1) * second).clamp_min(1e-300)
            found[name] = UnitSimilarity(cosines, first)
    return found


def _norms(layout: Layout, tensors: Mapping[str, Tensor], group: str) -> Tensor:
    """Return the norms of all weights of every unit of a group, in float64."""
    like = next(iter(tensors.values()))
    total = torch.zeros(layout.groups[group].size, dtype=torch.float64, device=like.device)
    for name, tensor in tensors.items():
        for cell, atoms in cells(tensor, layout.axes[name]):
            for place, atom in enumerate(atoms):
                if atom.group == group:
                    total += cell.double().square().movedim(place, 0).reshape(len(total), -1).sum(1)
    return total.sqrt()
