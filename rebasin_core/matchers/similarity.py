"""How alike the units of two networks are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.matchers.coordinate_descent import CoordinateDescent

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
    pairs = ((reference, candidate), (reference, reference), (candidate, candidate))
    solvers = [CoordinateDescent(layout, *({n: t.unsqueeze(0) for n, t in side.items()} for side in p)) for p in pairs]
    found: dict[str, UnitSimilarity] = {}
    for name, group in layout.groups.items():
        if group.within is None:
            cross, *own = (solver.similarity(name) for solver in solvers)
            first, second = (matrix.diagonal().clamp_min(0).sqrt() for matrix in own)
            found[name] = UnitSimilarity(cross / (first.unsqueeze(1) * second).clamp_min(1e-300), first)
    return found
