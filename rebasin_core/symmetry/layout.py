"""A layout: the groups of a network and, for every tensor, which group acts on which axis."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast, final

from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError, nearest
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, atoms_of, is_fixed
from rebasin_core.symmetry.cell import Gather, atom_rows, count_cells, gathers_of
from rebasin_core.symmetry.document import read_axes, read_group, read_names, write_axes
from rebasin_core.symmetry.stack import Stack, members_of, names_in, require_leading_axes, stack_of, stacked, unstacked
from rebasin_core.tensors.arguments import raise_wrong_type, require_mapping
from rebasin_core.tensors.bounds import MAX_CELLS, MAX_DEPTH, MAX_UNITS
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.frozen import FrozenMapping
from rebasin_core.tensors.names import TensorNames, counters_among
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor


@final
@dataclass(frozen=True)
class Layout:
    """The groups of a network and the axes of every tensor: the content of a permutation specification.

    Two layouts are equal if their groups and axes are equal.

    Attributes:
        groups: The groups by name.
        axes: One axis per dimension, for every parameter and buffer. The name of a *stack* has groups in braces:
            ``experts.{expert}.weight`` is the tensor that stacks ``experts.0.weight``, ``experts.1.weight``, ..., and
            its first axis is the group ``expert``. ``{side=left|right}.weight`` stacks ``left.weight`` and
            ``right.weight``.
        buffers: Names of the buffers, used to divide a state dict into parameters and buffers; None if unknown.
        aliases: Further names of tensors in a state dict (tied weights, modules registered twice), each mapped to the
            name in ``axes``.

    Raises:
        SpecError: On construction, if a buffer or alias names no tensor, if an atom names an unknown group or has
            another length than its group, if the nesting is cyclic, if a tensor has an axis of a nested group but
            does not have exactly one axis of its outer group, or if the first axes of a stack are not its groups.
    """

    groups: Mapping[str, Group]
    axes: Mapping[str, tuple[Axis, ...]]
    buffers: frozenset[str] | None = field(default=None, compare=False)
    aliases: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Freeze the mappings and check that they agree."""
        _require_kinds(self.groups, self.axes)
        object.__setattr__(self, "groups", FrozenMapping(dict(self.groups)))
        object.__setattr__(self, "axes", FrozenMapping(dict(self.axes)))
        object.__setattr__(self, "aliases", FrozenMapping(dict(self.aliases)))
        if self.buffers is not None:
            object.__setattr__(self, "buffers", frozenset(self.buffers))
        tensors = set(self.tensors)
        for name in (*(self.buffers or ()), *self.aliases.values()):
            if name not in tensors:
                message = f"`buffers` or `aliases` names `{name}`, which has no axes; {nearest(name, tensors)}"
                raise SpecError(message)
        for name in self.groups:
            if math.prod(self.index_shape(name)) > MAX_UNITS:
                message = f"group {shown(name)} has {self.index_shape(name)} units, expected at most {MAX_UNITS}"
                raise SpecError(message)
        for tensor, axes in self.axes.items():
            if count_cells(axes) > MAX_CELLS:
                message = f"`{tensor}`: expected concatenations that split it into at most {MAX_CELLS} cells"
                raise SpecError(message)
            for row in atom_rows(axes):
                self._check_row(tensor, row)
        for name in self.stacks:
            require_leading_axes(name, self.axes[name], self.groups)

    def _check_row(self, tensor: str, row: Sequence[Atom]) -> None:
        names = [atom.group for atom in row]
        for atom in row:
            if atom.group is None:
                continue
            group = self.groups.get(atom.group)
            if group is None:
                message = f"`{tensor}` names the group {atom.group!r}; {nearest(atom.group, self.groups)}"
                raise SpecError(message)
            if group.size != atom.size:
                message = f"`{tensor}`: group {group.name!r} has {group.size} units, its axis there has {atom.size}"
                raise SpecError(message)
            if group.within is not None and names.count(group.within) != 1:
                message = (
                    f"`{tensor}`: group {group.name!r} is nested in {group.within!r}; expected exactly one axis of the "
                    f"outer group, got {names.count(group.within)}"
                )
                raise SpecError(message)

    def ancestors(self, name: str) -> tuple[str, ...]:
        """Return the outer groups of a group, the outermost first.

        Args:
            name: Name of a group.

        Returns:
            Names; empty for a group that is not nested.
        """
        return self._chains[name]

    @cached_property
    def nesting(self) -> frozenset[str]:
        """Groups that are nested in other groups, and the groups around them."""
        inner = {name for name in self.groups if self.ancestors(name)}
        return frozenset(inner | {outer for name in inner for outer in self.ancestors(name)})

    @cached_property
    def _chains(self) -> dict[str, tuple[str, ...]]:
        return {name: self._chain(name) for name in self.groups}

    def _chain(self, name: str) -> tuple[str, ...]:
        chain: list[str] = []
        within = self.groups[name].within
        while within is not None:
            if within not in self.groups:
                message = f"group {name!r} is nested in unknown group {within!r}; {nearest(within, self.groups)}"
                raise SpecError(message)
            if within == name or within in chain:
                message = f"the nesting of groups {[name, *chain]} is cyclic"
                raise SpecError(message)
            if len(chain) == MAX_DEPTH:
                message = f"group {name!r} has more than {MAX_DEPTH} outer groups"
                raise SpecError(message)
            chain.insert(0, within)
            within = self.groups[within].within
        return tuple(chain)

    def index_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a group's index: the sizes of its outer groups, then its own.

        Args:
            name: Name of a group.

        Returns:
            ``(size,)``, or ``(*outer, size)`` for a nested group.
        """
        return (*(self.groups[outer].size for outer in self.ancestors(name)), self.groups[name].size)

    @cached_property
    def outer_first(self) -> tuple[str, ...]:
        """The group names, outer groups before inner groups."""
        return tuple(sorted(self.groups, key=lambda name: len(self.ancestors(name))))

    @cached_property
    def gathers(self) -> dict[str, tuple[Gather, ...] | None]:
        """How a permutation acts on the entries of each tensor, as defined at `gathers_of`."""
        return {name: gathers_of(axes, self.ancestors) for name, axes in self.axes.items()}

    @cached_property
    def log10_order(self) -> float:
        """The decimal logarithm of the number of group elements."""
        log = 0.0
        for name in self.groups:
            *outer, size = self.index_shape(name)
            log += math.prod(outer) * math.lgamma(size + 1)
        return log / math.log(10)

    @cached_property
    def moved(self) -> tuple[str, ...]:
        """The names of the permuted tensors: those that at least one group acts on."""
        return tuple(name for name, axes in self.axes.items() if not all(is_fixed(axis) for axis in axes))

    def tensors_of(self, group: str) -> tuple[str, ...]:
        """Return the names of the tensors that a group acts on.

        Args:
            group: Name of a group.

        Returns:
            Names, in the layout's order.
        """
        return tuple(
            name for name, axes in self.axes.items() if any(a.group == group for axis in axes for a in atoms_of(axis))
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Args:
            name: Name of a tensor or stack in the layout.

        Returns:
            One length per axis.
        """
        return self._shapes[name]

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {name: tuple(axis.size for axis in axes) for name, axes in self.axes.items()}
        members = {m: shapes[n][len(stack.sizes) :] for n, stack in self.stacks.items() for m in stack.members}
        return shapes | members

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """The stacks by name: names in ``axes`` of several tensors of the network."""
        sizes = {name: group.size for name, group in self.groups.items()}
        found = {name: stack_of(name, sizes) for name in self.axes}
        return {name: stack for name, stack in found.items() if stack is not None}

    @cached_property
    def tensors(self) -> tuple[str, ...]:
        """The names of the network's tensors: those in ``axes``, with those of stacks one by one."""
        return names_in(self.axes, {name: group.size for name, group in self.groups.items()})

    @cached_property
    def _stack_of(self) -> dict[str, str]:
        return {member: name for name, stack in self.stacks.items() for member in stack.members}

    def key(self, name: str) -> str:
        """Return the name in ``axes`` of a tensor.

        Args:
            name: A name in ``tensors``, ``axes`` or ``aliases``, or one that a wrapper gives.

        Returns:
            The name of its stack, or its own; the same name if it is unknown.
        """
        if name in self.axes:
            return name
        known = self.names.of(name) or name
        return self._stack_of.get(known, known)

    def stacked(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return tensors by the names in ``axes``: those of each stack as one.

        Args:
            tensors: ``[*lead, *shape]`` by the names in `tensors`, or stacked already; any part of them.

        Returns:
            The same mapping if the layout has no stacks.

        Raises:
            InvalidInputError: If only some tensors of a stack are given, or they differ in shape, dtype or device.
        """
        return stacked(self.stacks, tensors, lambda name: len(self.axes[name])) if self.stacks else tensors

    def unstacked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors by the names of the network: the inverse of `stacked`.

        Args:
            tensors: ``[*lead, *shape]`` by the names in ``axes``.

        Returns:
            The tensors; those of stacks are views.
        """
        return unstacked(self.stacks, tensors, lambda name: len(self.axes[name]))

    def check(self, tensors: Mapping[str, Tensor], description: str, *, complete: bool = True) -> None:
        """Raise if tensors do not match the layout.

        A tensor attached to a parameter of shape ``s`` may have extra leading dimensions: ``(*lead, *s)``.

        Args:
            tensors: Tensors by name.
            description: Description of the tensors, for the message ("the candidate").
            complete: Whether every permuted tensor of the layout is required.

        Raises:
            InvalidInputError: If a name is unknown or missing, or the trailing dimensions of a shape differ.
        """
        own = {name: name if name in self.stacks else self.names.of(name) for name in tensors}
        unknown = sorted(name for name, known in own.items() if known is None)
        missing = self._missing({name for name in own.values() if name is not None}) if complete else []
        if unknown or missing:
            parts = [f"{description} does not match the specification"]
            parts += [f"missing: {shorten(missing)}"] if missing else []
            parts += [f"not in the specification: {shorten(unknown)}"] if unknown else []
            raise InvalidInputError("; ".join(parts))
        for name, tensor in tensors.items():
            shape = tuple(tensor.shape)
            expected = self.shape(own[name] or name)
            if len(shape) < len(expected) or shape[len(shape) - len(expected) :] != expected:
                message = f"{description}: `{name}` has shape {shape}, expected {expected} as its last dimensions"
                raise InvalidInputError(message)

    def _missing(self, given: Collection[str]) -> list[str]:
        """Return the permuted tensors that are not given; counters of batches may be omitted."""
        moved = [name for name in self.moved if name not in given]
        members = [member for name in moved for member in members_of(self.stacks, name)]
        return sorted(m for m in members if m not in given and m not in counters_among([m]))

    def _action_as_json(self) -> dict[str, Any]:
        """Return the groups and the axes they act on."""
        return {
            "groups": {
                name: {"size": group.size} | ({"within": group.within} if group.within else {})
                for name, group in self.groups.items()
            },
            "axes": {name: write_axes(name, axes, self.groups) for name, axes in self.axes.items()},
        }

    def as_json(self) -> dict[str, Any]:
        """Return the layout as a JSON object that `from_json` reads back.

        ``buffers`` is omitted if unknown, and ``aliases`` if there are none.
        """
        document = self._action_as_json()
        if self.buffers is not None:
            document["buffers"] = [name for name in self.tensors if name in self.buffers]
        if self.aliases:
            document["aliases"] = dict(self.aliases)
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Layout:
        """Return the layout written by `as_json`.

        Args:
            document: The parsed JSON.

        Returns:
            An equal layout.

        Raises:
            FileFormatError: If the document has another structure.
            SpecError: If its groups and axes contradict each other, or exceed the size of any tensor.
        """
        parts: list[object] = [document.get(key) for key in ("groups", "axes")] if isinstance(document, dict) else []
        if not parts or not all(isinstance(part, dict) for part in parts):
            message = f"expected a layout with objects `groups` and `axes`, got {shown(document)}"
            raise FileFormatError(message)
        groups = {name: read_group(name, entry) for name, entry in document["groups"].items()}
        try:
            axes = {name: read_axes(name, text, groups) for name, text in document["axes"].items()}
            tensors = names_in(axes, {name: group.size for name, group in groups.items()})
        except SpecError as error:
            raise FileFormatError(str(error)) from error
        found = cls(groups, axes, *read_names(document, tensors))
        used = {atom.group for of_tensor in axes.values() for axis in of_tensor for atom in atoms_of(axis)}
        unused = sorted(name for name in groups if name not in used)
        if unused:
            message = f"no tensor has an axis of these groups: {shorten(unused)}; remove them"
            raise SpecError(message)
        return found

    @cached_property
    def names(self) -> TensorNames:
        """The names of the tensors, of the buffers among them, and their aliases."""
        moved = {member for name in self.moved for member in members_of(self.stacks, name)}
        optional = ((self.buffers or frozenset()) - moved) | counters_among(self.tensors)
        shapes = {name: self._shapes[name] for name in self.tensors}
        return TensorNames(self.tensors, self.buffers, self.aliases, shapes, optional)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the groups and axes; equal layouts have equal fingerprints."""
        text = json.dumps(self._action_as_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require_kinds(groups: object, axes: object) -> None:
    """Raise if groups or axes have another type than a layout requires."""
    require_mapping(groups, "the groups as a mapping by name")
    require_mapping(axes, "the axes as a mapping by the names of tensors")
    for group in cast("Mapping[str, object]", groups).values():
        if not isinstance(group, Group):
            raise_wrong_type(group, "a `Group` for every name of a group")
    for of_tensor in cast("Mapping[str, object]", axes).values():
        if not isinstance(of_tensor, tuple) or not all(isinstance(axis, Atom | Product | Concat) for axis in of_tensor):
            raise_wrong_type(of_tensor, "a tuple of axes for every tensor", "`table_spec` reads them from texts")
