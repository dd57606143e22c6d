"""Which scales, shifts and means of a model can be folded, and by which symmetry of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.specs.folding import Obstacle
from rebasin_core.symmetry.axis import Atom, factors_of
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.stack import members_of

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
        zeros: Those of them that are stored minus one: they are zero afterwards.
        shifts: For every shift that is folded, the layers whose biases contain it afterwards.
        centered: The dimensions along which the mean is subtracted.
        kept: For scales that are not one and shifts that are not zero afterwards, the reason.
        is_complete: Whether all scales are one afterwards that must be for the folded symmetry.
    """

    symmetry: Symmetry
    scales: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    zeros: frozenset[str] = frozenset()
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

        def read(name: str) -> Tensor:
            own = {member: tensors[member] for member in members_of(spec.layout.stacks, name)}
            return spec.layout.stacked(own)[name]

        kept: dict[str, Obstacle] = {}
        scales: dict[str, tuple[int, int]] = {}
        names = scale_values(spec)
        symmetry = _with_offset_scales(spec)
        for name, value in names.items() if parts.scales else ():
            found = _family_of(spec, symmetry, name, read(name))
            if not isinstance(found, Obstacle):
                scales[name] = found
            elif not _is_constant(read(name), value):
                kept[name] = found
        shifts = dict(foldable.shifts) if parts.shifts else {}
        if parts.shifts:
            others = foldable.obstacles.items()
            kept |= {name: why for name, why in others if name not in names and not _is_constant(read(name), 0)}
        centered = [*foldable.writers] if parts.center else []
        for at, (own_scales, own_shifts) in foldable.readers.items() if parts.center else ():
            are_ones = all(name in scales or _is_constant(read(name), names.get(name, 1)) for name in own_scales)
            if are_ones and all(name in shifts or _is_constant(read(name), 0) for name in own_shifts):
                centered.append(at)
        is_complete = all(name in scales or _is_constant(read(name), value) for name, value in names.items())
        zeros = frozenset(name for name in scales if not names[name])
        return cls(symmetry, scales, zeros, shifts, tuple(centered), kept, is_complete)


def scale_values(spec: PermutationSpec) -> dict[str, float]:
    """Return the parameters of scales that must have one value for the folded symmetry of a model.

    Args:
        spec: The specification.

    Returns:
        The value by name: 1, or 0 for a scale that is one plus the parameter.
    """
    return {name: value for linear in spec.folded_symmetry.linear for name, value in linear.required.items()}


def _with_offset_scales(spec: PermutationSpec) -> Symmetry:
    """Return the symmetry with the families of factors of scales that are one plus a parameter."""
    offsets = spec.foldable.offset_scales
    return replace(spec.symmetry, linear=(*spec.symmetry.linear, *offsets)) if offsets else spec.symmetry


def _family_of(spec: PermutationSpec, symmetry: Symmetry, name: str, tensor: Tensor) -> tuple[int, int] | Obstacle:
    """Return the index of the family of factors that can make a scale one, and its degree there."""
    values = scale_values(spec)
    others = values.keys() - {name}
    found: tuple[int, int] | None = None
    for index, linear in enumerate(symmetry.linear):
        degrees = [degree for slot, degree in linear.degrees.items() if slot.tensor == name]
        is_alone = not any(slot.tensor in others for slot in linear.degrees)
        if linear.kind in {Kind.POSITIVE, Kind.NONZERO} and degrees in ([1], [-1]) and is_alone:
            found = found or (index, degrees[0])
    if found is None:
        return spec.foldable.obstacles.get(name) or Obstacle("no factors of its units leave the function unchanged")
    if name in spec.layout.stacks:
        return Obstacle("it belongs to several modules that are exchanged")
    linear = symmetry.linear[found[0]]
    groups = (*symmetry.layout.ancestors(linear.group), linear.group)
    atoms = factors_of(symmetry.layout.axes[name][0])
    if [atom.group for atom in atoms if isinstance(atom, Atom)] != [*groups]:
        return Obstacle("its axis contains more than one group of units")
    return _invertible(tensor, linear, is_offset=not values[name]) or found


def _invertible(tensor: Tensor, linear: LinearSymmetry, *, is_offset: bool) -> Obstacle | None:
    """Return the reason why a scale has no inverse among the factors of a family; None if it has one."""
    scale = tensor + int(is_offset)
    entries = "the entries of one plus it" if is_offset else "its entries"
    if not bool(torch.isfinite(scale).all()):
        return Obstacle("it has entries that are not finite")
    zeros = int((scale == 0).sum())
    if zeros:
        return Obstacle(f"{zeros} of {entries} are zero, which has no inverse; give them a small value")
    if linear.kind is Kind.POSITIVE and bool((scale < 0).any()):
        return Obstacle(f"some of {entries} are negative, and its units admit positive factors only")
    return None


def _is_constant(tensor: Tensor, value: float) -> bool:
    return bool((tensor == value).all())
