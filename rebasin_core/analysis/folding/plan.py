"""Which scales, shifts and means of a model can be folded, and by which symmetry of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.specs.folding import Obstacle
from rebasin_core.symmetry.axis import Atom, factors_of
from rebasin_core.symmetry.kind import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.specs.folding import BiasedWeight, Dim
    from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry


@final
@dataclass(frozen=True, slots=True)
class FoldingParts:
    """The parts of normalizations to fold.

    Attributes:
        scales: Whether to fold scales.
        shifts: Whether to fold shifts.
        center: Whether to subtract means that no layer sees.
    """

    scales: bool = True
    shifts: bool = False
    center: bool = False


@final
@dataclass(frozen=True, slots=True)
class FoldingPlan:
    """The parts of a network that are folded.

    Attributes:
        symmetry: The symmetry of the network, with the families of factors that fold scales.
        scales: For every scale that is folded: the index of a family in ``symmetry``, and its degree there.
        shifts: For every shift that is folded, the layers whose biases contain it afterwards.
        centered: The dimensions along which the mean is subtracted.
        kept: For scales that are not one and shifts that are not zero afterwards, the reason.
        is_complete: Whether all scales are one afterwards that must be for the folded symmetry.
    """

    symmetry: Symmetry
    scales: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    shifts: Mapping[str, tuple[BiasedWeight, ...]] = field(default_factory=dict)
    centered: tuple[Dim, ...] = ()
    kept: Mapping[str, Obstacle] = field(default_factory=dict)
    is_complete: bool = True

    @classmethod
    def of(cls, spec: PermutationSpec, tensors: Mapping[str, Tensor], parts: FoldingParts) -> FoldingPlan:
        """Return the plan for a network.

        Args:
            spec: The specification.
            tensors: The tensors of the network, under the names of the specification.
            parts: The parts to fold.

        Returns:
            The plan.
        """
        foldable = spec.foldable
        kept: dict[str, Obstacle] = {}
        scales: dict[str, tuple[int, int]] = {}
        names = scale_names(spec)
        for name in names if parts.scales else ():
            found = _family_of(spec, name, tensors[name])
            if not isinstance(found, Obstacle):
                scales[name] = found
            elif not _is_constant(tensors[name], 1):
                kept[name] = found
        shifts = dict(foldable.shifts) if parts.shifts else {}
        if parts.shifts:
            others = foldable.obstacles.items()
            kept |= {name: why for name, why in others if name not in names and not _is_constant(tensors[name], 0)}
        centered = [*foldable.writers] if parts.center else []
        for at, (own_scales, own_shifts) in foldable.readers.items() if parts.center else ():
            are_ones = all(name in scales or _is_constant(tensors[name], 1) for name in own_scales)
            if are_ones and all(name in shifts or _is_constant(tensors[name], 0) for name in own_shifts):
                centered.append(at)
        is_complete = all(name in scales or _is_constant(tensors[name], 1) for name in names)
        return cls(spec.symmetry, scales, shifts, tuple(centered), kept, is_complete)


def scale_names(spec: PermutationSpec) -> tuple[str, ...]:
    """Return the scales that must be one for the folded symmetry of a model.

    Args:
        spec: The specification.

    Returns:
        Their names.
    """
    return tuple(dict.fromkeys(name for linear in spec.folded_symmetry.linear for name in linear.ones))


def _family_of(spec: PermutationSpec, name: str, scale: Tensor) -> tuple[int, int] | Obstacle:
    """Return the index of the family of factors that can make a scale one, and its degree there."""
    others = set(scale_names(spec)) - {name}
    found: tuple[int, int] | None = None
    for index, linear in enumerate(spec.symmetry.linear):
        degrees = [degree for slot, degree in linear.degrees.items() if slot.tensor == name]
        is_alone = not any(slot.tensor in others for slot in linear.degrees)
        if linear.kind in {Kind.POSITIVE, Kind.NONZERO} and degrees in ([1], [-1]) and is_alone:
            found = found or (index, degrees[0])
    if found is None:
        return spec.foldable.obstacles.get(name) or Obstacle("no factors of its units leave the function unchanged")
    linear = spec.symmetry.linear[found[0]]
    groups = (*spec.symmetry.layout.ancestors(linear.group), linear.group)
    atoms = factors_of(spec.symmetry.layout.axes[name][0])
    if [atom.group for atom in atoms if isinstance(atom, Atom)] != [*groups]:
        return Obstacle("its axis contains more than one group of units")
    return _invertible(scale, linear) or found


def _invertible(scale: Tensor, linear: LinearSymmetry) -> Obstacle | None:
    """Return the reason why a scale has no inverse among the factors of a family; None if it has one."""
    if not bool(torch.isfinite(scale).all()):
        return Obstacle("it has entries that are not finite")
    zeros = int((scale == 0).sum())
    if zeros:
        return Obstacle(f"{zeros} of its entries are zero, which has no inverse; give them a small value")
    if linear.kind is Kind.POSITIVE and bool((scale < 0).any()):
        return Obstacle("it has negative entries, and its units admit positive factors only")
    return None


def _is_constant(tensor: Tensor, value: float) -> bool:
    return bool((tensor == value).all())
