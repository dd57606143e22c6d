"""Cosine similarities between the units of two networks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.symmetry.cell import cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class UnitSimilarity:
    """Cosine similarities between the units of one group in two networks.

    Attributes:
        cosines: ``[n, n]`` in float64: rows are reference units, columns candidate units.
        norms: ``[n]``: the norms of the reference units.
    """

    cosines: Tensor
    norms: Tensor


def unit_similarities(
    layout: Layout, reference: Mapping[str, Tensor], candidate: Mapping[str, Tensor]
) -> dict[str, UnitSimilarity]:
    r"""Return the cosine similarities between the units of two networks, without permuting anything.

    $$ C_{ij} = \frac{\langle w^0_i, w^1_j \rangle}{\lVert w^0_i \rVert\, \lVert w^1_j \rVert} $$

    where $w_i$ is the vector of all incoming and outgoing weights of unit $i$. For aligned networks the diagonal is
    large.

    Args:
        layout: The groups.
        reference: Parameters of the reference by name.
        candidate: Parameters of the candidate by name.

    Returns:
        The similarities of every group that is not nested in another one.
    """
    solver = CoordinateDescent(layout, _one_channel(reference), _one_channel(candidate))
    reference, candidate = layout.stacked(reference), layout.stacked(candidate)
    found: dict[str, UnitSimilarity] = {}
    for name, group in layout.groups.items():
        if group.within is None:
            norms = _norms(layout, reference, name)
            products = norms.unsqueeze(1) * _norms(layout, candidate, name)
            found[name] = UnitSimilarity(solver.similarity(name) / products.clamp_min(1e-300), norms)
    return found


def _one_channel(tensors: Mapping[str, Tensor]) -> Channels:
    return {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}


def _norms(layout: Layout, tensors: Mapping[str, Tensor], group: str) -> Tensor:
    """Return the norms of all weights of every unit of a group, in float64."""
    like = next(iter(tensors.values()))
    total = torch.zeros(layout.groups[group].size, dtype=torch.float64, device=like.device)
    for name, tensor in tensors.items():
        for cell, atoms in cells(tensor, layout.axes[name]):
            for dim, atom in enumerate(atoms):
                if atom.group == group:
                    total += cell.double().square().movedim(dim, 0).reshape(len(total), -1).sum(1)
    return total.sqrt()
