"""Linear symmetries: the maps that a network admits on its units in addition to their permutation."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

from rebasin_core.errors import FileFormatError, SpecError, nearest
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, atoms_of, concat, product
from rebasin_core.symmetry.kind import Kind, Shift, Slot
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.linear_symmetry import LinearSymmetry, are_names
from rebasin_core.symmetry.shifts import check_shifts, check_shifts_together
from rebasin_core.symmetry.stack import indices_of
from rebasin_core.tensors.arguments import raise_wrong_type
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Kind", "LinearSymmetry", "Shift", "Slot", "Symmetry"]


@final
@dataclass(frozen=True)
class Symmetry:
    """The linear part of a specification: the maps that it admits in addition to permutations.

    Flips transform each tensor by itself in centered coordinates only (see `Shift`).

    Attributes:
        layout: The groups and the tensors they act on. It can have more groups than the layout of the permutations:
            those of ``unpermuted``.
        linear: The linear symmetries. A group can have several families of factors, and families of matrices on
            disjoint slots.
        unpermuted: Names of the groups that have maps but whose units cannot be permuted. Groups with rotations, whose
            pairs differ in frequency, always belong to them.

    Raises:
        SpecError: On construction, if a linear symmetry names a group, tensor, dimension or atom that the layout does
            not have, if a slot is transformed twice by maps that do not commute, if rotations act on an odd number of
            units, or if matrices act on a group with inner groups.
    """

    layout: Layout
    linear: tuple[LinearSymmetry, ...] = ()
    unpermuted: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Freeze the parts and check that they agree."""
        if not isinstance(self.layout, Layout):
            raise_wrong_type(self.layout, "a `Layout` for the groups of a symmetry")
        linear = tuple(self.linear)
        for item in linear:
            if not isinstance(item, LinearSymmetry):
                raise_wrong_type(item, "linear symmetries as values of `LinearSymmetry`")
            _check_linear(self.layout, item)
        _check_together(linear)
        rotated = {item.group for item in linear if item.kind is Kind.ROTATION}
        for name in self.unpermuted:
            if name not in self.layout.groups:
                message = f"`unpermuted` names the group {shown(name)}; {nearest(name, self.layout.groups)}"
                raise SpecError(message)
        unpermuted = frozenset(self.unpermuted) | rotated
        groups = self.layout.groups.values()
        inner = sorted(group.name for group in groups if group.within in unpermuted and group.name not in unpermuted)
        if inner:
            message = f"groups {inner} are nested in groups that cannot be permuted; add them to `unpermuted`"
            raise SpecError(message)
        exchanged = sorted({group for name in self.layout.stacks for group in indices_of(name, unpermuted)})
        if exchanged:
            message = f"groups {exchanged} exchange tensors of stacks; expected them to be permuted"
            raise SpecError(message)
        object.__setattr__(self, "linear", linear)
        object.__setattr__(self, "unpermuted", unpermuted)

    def of(self, group: str) -> tuple[LinearSymmetry, ...]:
        """Return the linear symmetries of a group.

        Args:
            group: Name of a group.

        Returns:
            Those in ``linear`` with this group; empty if it admits permutations only.
        """
        return tuple(item for item in self.linear if item.group == group)

    def union(self, other: Symmetry) -> Symmetry:
        """Return the symmetry with the linear symmetries of both.

        Args:
            other: A symmetry with the same groups and axes.

        Returns:
            This one's linear symmetries, then those that only the other has.

        Raises:
            SpecError: If the layouts differ, or two families of maps transform one slot and do not commute.
        """
        if other.fingerprint == self.fingerprint:
            return self
        if other.layout.fingerprint != self.layout.fingerprint or other.unpermuted != self.unpermuted:
            own, given = self.fingerprint, other.fingerprint
            message = f"expected symmetries of the same groups, axes and permutations, got {own} and {given}"
            raise SpecError(message)
        added = tuple(item for item in other.linear if item not in self.linear)
        return Symmetry(self.layout, self.linear + added, self.unpermuted)

    @cached_property
    def shifts(self) -> tuple[Shift, ...]:
        """The shifts of all flips: they define the centered coordinates, in which flips are signs."""
        return tuple(dict.fromkeys(shift for item in self.linear for shift in item.shifts))

    @cached_property
    def centered(self) -> Symmetry:
        """The symmetry in centered coordinates (see `Shift`): flips are signs, all other maps are the same."""
        if not self.shifts:
            return self
        linear = (replace(item, kind=Kind.SIGN, shifts=()) if item.shifts else item for item in self.linear)
        return Symmetry(self.layout, tuple(linear), self.unpermuted)

    @cached_property
    def by_tensor(self) -> Mapping[str, tuple[tuple[Slot, int], ...]]:
        """For every tensor with a slot: its slots, each with the index in ``linear`` of the symmetry that has it."""
        found: dict[str, list[tuple[Slot, int]]] = {}
        for index, item in enumerate(self.linear):
            for slot in item.degrees:
                found.setdefault(slot.tensor, []).append((slot, index))
        return FrozenMapping({name: tuple(slots) for name, slots in found.items()})

    def map_shape(self, linear: LinearSymmetry) -> tuple[int, ...]:
        """Return the shape of a map of a linear symmetry.

        Args:
            linear: One of ``linear``.

        Returns:
            The sizes of the outer groups, then `Kind.map_shape`.
        """
        *outer, size = self.layout.index_shape(linear.group)
        return (*outer, *linear.kind.map_shape(size))

    @cached_property
    def dimension(self) -> int:
        """The number of continuous parameters of a group element."""
        total = 0
        for item in self.linear:
            *outer, size = self.layout.index_shape(item.group)
            total += math.prod(outer) * item.kind.dimension(size)
        return total

    @cached_property
    def log2_signs(self) -> int:
        """The binary logarithm of the number of choices of signs: one per unit with a sign or a nonzero factor."""
        signed = [item.group for item in self.linear if item.kind.has_signs]
        return sum(math.prod(self.layout.index_shape(group)) for group in signed)

    @cached_property
    def permutations(self) -> Layout:
        """The layout of the permutations: ``layout``, with fixed axes for the groups of ``unpermuted``."""
        if not self.unpermuted:
            return self.layout
        groups = {name: group for name, group in self.layout.groups.items() if name not in self.unpermuted}
        axes = {
            name: tuple(_fixed(axis, self.unpermuted) for axis in of_tensor)
            for name, of_tensor in self.layout.axes.items()
        }
        return Layout(groups, axes, self.layout.buffers, self.layout.aliases)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the layout and the linear symmetries; equal symmetries have equal fingerprints."""
        document = {**self.as_json(), "layout": self.layout.fingerprint}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """Return the symmetry as a JSON object that `from_json` reads back."""
        document = {"layout": self.layout.as_json(), "linear": [item.as_json() for item in self.linear]}
        return document | ({"unpermuted": sorted(self.unpermuted)} if self.unpermuted else {})

    @classmethod
    def from_json(cls, document: object) -> Symmetry:
        """Return the symmetry written by `as_json`.

        Args:
            document: The parsed JSON.

        Returns:
            An equal symmetry.

        Raises:
            FileFormatError: If the document has another structure.
            SpecError: If its parts contradict each other.
        """
        entry: dict[str, Any] = document if isinstance(document, dict) else {}
        linear, unpermuted = entry.get("linear"), entry.get("unpermuted", [])
        if not isinstance(linear, list) or not are_names(unpermuted):
            message = f"expected a symmetry as an object with `layout` and `linear`, got {shown(document)}"
            raise FileFormatError(message)
        items = tuple(LinearSymmetry.from_json(item) for item in linear)
        return cls(Layout.from_json(entry.get("layout", {})), items, frozenset(unpermuted))


def _check_linear(layout: Layout, linear: LinearSymmetry) -> None:
    """Raise if a linear symmetry does not fit the layout."""
    group = layout.groups.get(linear.group)
    if group is None:
        message = f"a linear symmetry names the group {shown(linear.group)}; {nearest(linear.group, layout.groups)}"
        raise SpecError(message)
    for name in (*linear.required, *(slot.tensor for slot in linear.degrees)):
        if name not in layout.axes:
            message = (
                f"a symmetry of group {shown(group.name)} names the tensor {shown(name)}; {nearest(name, layout.axes)}"
            )
            raise SpecError(message)
    for slot in linear.degrees:
        _check_slot(layout, group, slot)
    check_shifts(layout, group.name, linear.shifts, linear.degrees)
    if linear.kind is Kind.ROTATION and group.size % 2:
        message = (
            f"group {shown(group.name)}: expected an even number of units for rotations of pairs, got {group.size}"
        )
        raise SpecError(message)
    inner = sorted(other.name for other in layout.groups.values() if other.within == group.name)
    if inner and not linear.kind.is_factor:
        message = (
            f"group {shown(group.name)} has the inner groups {inner}: expected factors of its units (sign, positive or "
            f"nonzero), got kind {linear.kind}"
        )
        raise SpecError(message)
    transformed = sorted({slot.tensor for slot in linear.degrees}.intersection(linear.required))
    if transformed:
        message = (
            f"group {shown(group.name)}: {transformed} must be one or zero and have degrees too; remove one of the two"
        )
        raise SpecError(message)


def _check_slot(layout: Layout, group: Group, slot: Slot) -> None:
    """Raise if the layout has no occurrence of the group at a slot."""
    axes = layout.axes[slot.tensor]
    if not 0 <= slot.dim < len(axes):
        message = (
            f"{shown(slot.tensor)} has {len(axes)} dimensions, got a slot of group {shown(group.name)} at {slot.dim}"
        )
        raise SpecError(message)
    atoms = list(atoms_of(axes[slot.dim]))
    at = [number for number, atom in enumerate(atoms) if atom.group == group.name]
    if slot.number not in at:
        message = (
            f"{shown(slot.tensor)}, dimension {slot.dim}: expected a slot of group {shown(group.name)} at one of the "
            f"atoms {at}, got {slot.number}"
        )
        raise SpecError(message)


def _check_together(linear: Collection[LinearSymmetry]) -> None:
    """Raise if two linear symmetries transform one slot and do not commute."""
    shifts = dict.fromkeys(shift for item in linear for shift in item.shifts)
    others = [(item.kind, slot) for item in linear if not item.shifts for slot in item.degrees]
    check_shifts_together(shifts, others)
    matrices = [(slot, item) for item in linear if not item.kind.is_factor for slot in item.degrees]
    for slot, item in matrices:
        for other in linear:
            if other is not item and slot in other.degrees:
                message = (
                    f"{shown(slot)} is transformed by maps of kind {item.kind} and of kind {other.kind}: expected at "
                    "most one family of maps at a slot, or factors only"
                )
                raise SpecError(message)


def _fixed(axis: Axis, groups: Collection[str]) -> Axis:
    """Return the axis with the atoms of some groups replaced by fixed atoms."""
    match axis:
        case Atom(size, group):
            return Atom(size) if group in groups else axis
        case Product(factors):
            return product(*(_fixed(factor, groups) for factor in factors))
        case Concat(parts):
            return concat(*(_fixed(part, groups) for part in parts))
