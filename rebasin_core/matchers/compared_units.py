"""Linear symmetries of activations: how the maps of a network's units transform similarities between units."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.symmetry.axis import atoms_of
from rebasin_core.symmetry.kind import Slot
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.matchers.activation_statistics import CrossMoments, ResponseMetric
    from rebasin_core.symmetry.axis import Axis
    from rebasin_core.symmetry.linear import LinearSymmetry
    from rebasin_core.symmetry.permutation import GroupElement

# The dimension of the candidate's units in a similarity matrix.
_UNITS = 1


@final
@dataclass(frozen=True, slots=True)
class ComparedUnits:
    """Similarities ``[units, units]`` between activations, and the linear symmetries that transform the second axis.

    Attributes:
        of_network: The linear symmetries of the network.
        symmetry: Those whose units are compared; its tensors are the similarity matrices.
        indices: For each of ``symmetry.linear``, its index in ``of_network.linear``.
        values: The similarity matrices by the name of the weight that computes the units, in float64.
    """

    of_network: Symmetry
    symmetry: Symmetry
    indices: tuple[int, ...]
    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, symmetry: Symmetry, moments: CrossMoments, metric: ResponseMetric) -> ComparedUnits:
        """Return the similarities of units that have been measured.

        Args:
            symmetry: The linear symmetries of the network.
            moments: Second moments of the activations.
            metric: The similarity of units that no map mixes. Mixed units are compared by their covariances, divided
                by the mean standard deviation of the units of each network.

        Returns:
            The similarities.
        """
        mixing = {slot for item in symmetry.linear if not item.kind.is_factor for slot in item.degrees}
        dims = moments.unit_dims()
        mixed = {name for name, dim in dims.items() if any((s.tensor, s.dim) == (name, dim) for s in mixing)}
        matrices = moments.similarities(correlation=metric == "correlation", pooled=mixed)
        axes = {name: of_matrix for name, (of_matrix, _) in matrices.items()}
        used = {atom.group for _, axis in axes.values() for atom in atoms_of(axis) if atom.group is not None}
        used |= {outer for name in used for outer in symmetry.layout.ancestors(name)}
        groups = {name: group for name, group in symmetry.layout.groups.items() if name in used}
        found = [_of_matrices(item, dims) for item in symmetry.linear]
        compared = Symmetry(
            Layout(groups, axes), tuple(item for item in found if item is not None), symmetry.unpermuted & used
        )
        indices = tuple(index for index, item in enumerate(found) if item is not None)
        return cls(symmetry, compared, indices, {name: value for name, (_, value) in matrices.items()})

    @property
    def matrices(self) -> Mapping[str, tuple[tuple[Axis, ...], Tensor]]:
        """The axes on which permutations act, and the values of every matrix."""
        return {name: (self.symmetry.permutations.axes[name], value) for name, value in self.values.items()}

    def channels(self) -> tuple[Channels, Channels]:
        """Return matrices whose inner product is the total similarity: identities, and the similarities."""
        identities = {n: torch.eye(len(c), dtype=c.dtype, device=c.device).unsqueeze(0) for n, c in self.values.items()}
        return identities, {name: value.unsqueeze(0) for name, value in self.values.items()}

    def extended(self, element: GroupElement) -> SymmetryElement:
        """Return an element of the network's symmetries that is the identity on units that are not compared.

        Args:
            element: An element of ``symmetry``, or a permutation of its units.

        Returns:
            The element of ``of_network``.
        """
        layout = self.of_network.permutations
        found = element.maps if isinstance(element, SymmetryElement) else [None] * len(self.indices)
        maps = dict(zip(self.indices, found, strict=True))
        indices = {**Permutation.identity(layout).indices, **element.permutation.indices}
        every = [maps.get(index) for index in range(len(self.of_network.linear))]
        return SymmetryElement(self.of_network, Permutation(layout, indices), every)


def _of_matrices(linear: LinearSymmetry, dims: Mapping[str, int]) -> LinearSymmetry | None:
    """Return a linear symmetry on similarity matrices; None if it acts on none."""
    degrees = {
        Slot(slot.tensor, _UNITS, slot.number): degree
        for slot, degree in linear.degrees.items()
        if dims.get(slot.tensor) == slot.dim
    }
    return replace(linear, degrees=degrees, ones=()) if degrees else None
