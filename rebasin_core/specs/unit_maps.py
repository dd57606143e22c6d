"""Linear maps of the units of a group, as a table states them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias, final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rebasin_core.errors import SpecError, nearest
from rebasin_core.symmetry.kind import Kind, Shift
from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry
from rebasin_core.symmetry.pairs import Pairs
from rebasin_core.symmetry.slots import slots_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rebasin_core.symmetry.kind import Slot
    from rebasin_core.symmetry.layout import Layout

_INDEXED = re.compile(r"(.*):(\d+)(?:\.(\d+))?")
# Kinds whose maps act equally on producing and consuming axes: g is its own inverse transpose.
_SYMMETRIC = {Kind.SIGN, Kind.FLIP, Kind.ORTHOGONAL, Kind.ORTHOGONAL_FIXING_ONES}


@final
class UnitMaps(BaseModel):
    """One family of linear maps of the units of a group.

    Tensors are given by glob patterns of their names. The index of a dimension can follow a pattern
    (``layer.weight:1``), and of the occurrence of the group on it: ``qkv.weight:0.1`` is the second occurrence on
    dimension 0, such as the keys in a fused projection of queries, keys and values.

    Raises:
        ValidationError: If the kind does not exist, or a field is misspelled.

    Examples:
        >>> UnitMaps(kind="nonzero", produces=["up.*"], consumes=["down.weight"]).consumes
        ('down.weight',)
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind
    """The family of maps, such as ``positive`` for units between two layers with a ReLU."""

    produces: tuple[str, ...] = ()
    """Tensors that produce the units. If this and ``consumes`` are empty, the group is produced along the first
    dimension of its tensors (rows of weights, biases) and consumed along the others (columns), as in ``nn.Linear`` and
    ``nn.Conv2d``. If not, other tensors are not transformed, such as scales of normalizations."""

    consumes: tuple[str, ...] = ()
    """Tensors that consume the units."""

    ones: tuple[str, ...] = ()
    """Scales of normalizations that must be one in all entries; the family then belongs to
    `PermutationSpec.folded_symmetry` only. They are not transformed."""

    pairs: Pairs = Pairs.HALVES
    """The units that are a pair, for rotations: ``halves`` or ``neighbors``."""

    zeros: tuple[str, ...] = ()
    """The same for normalizations that multiply by one plus a parameter, which must be zero in all entries."""

    biases: Mapping[str, str] = Field(default_factory=dict)
    """For flips, the bias of each weight that consumes the units, by name. By default, the bias of ``layer.weight`` is
    ``layer.bias``."""

    constant: float = 1.0
    """For flips, the constant $c$ of the activation function, with $f(-u) = c - f(u)$: 1 for the logistic sigmoid."""

    slope: float = 0.25
    """For flips, the slope of the activation function at 0: 1/4 for the logistic sigmoid."""


UnitMapsLike: TypeAlias = str | Mapping[str, object] | UnitMaps
"""A family of maps: its kind as text, a mapping of the fields of `UnitMaps`, or a value of that class."""

KindsByGroup: TypeAlias = Mapping[str, UnitMapsLike | Sequence[UnitMapsLike]]
"""One or several families of maps, by the name of a group."""


def families_of(kinds: KindsByGroup, layout: Layout) -> list[LinearSymmetry]:
    """Return the linear symmetries that a table states.

    Args:
        kinds: One or several families of maps for each group.
        layout: The groups and axes of the table.

    Returns:
        The linear symmetries.

    Raises:
        SpecError: If a group or kind does not exist, or a pattern matches no axis of its group.
    """
    found: list[LinearSymmetry] = []
    for group, given in kinds.items():
        if group not in layout.groups:
            message = f"`kinds` names the group {group!r}; {nearest(group, layout.groups)}"
            raise SpecError(message)
        several = isinstance(given, Sequence) and not isinstance(given, str)
        found += [_family(layout, group, _validated(group, entry)) for entry in (given if several else [given])]
    return found


def symmetries_of(kinds: KindsByGroup, layout: Layout) -> tuple[Symmetry, Symmetry]:
    """Return the maps that a table states, before and after folding the scales of normalizations.

    Args:
        kinds: One or several families of maps for each group.
        layout: The groups and axes of the table.

    Returns:
        The families without `UnitMaps.ones` and `UnitMaps.zeros`; then all families with them, and those that act on
        other axes.

    Raises:
        SpecError: If the families contradict each other or the layout.
    """
    families = families_of(kinds, layout)
    scaled = [family for family in families if family.required]
    plain = [family for family in families if not family.required]
    slots = {slot for family in scaled for slot in family.degrees}
    compatible = [family for family in plain if slots.isdisjoint(family.degrees)]
    rotated = frozenset(family.group for family in families if family.kind is Kind.ROTATION)
    return Symmetry(layout, tuple(plain), rotated), Symmetry(layout, (*compatible, *scaled), rotated)


def _validated(group: str, entry: object) -> UnitMaps:
    """Return a family from its kind, its fields, or itself."""
    if isinstance(entry, UnitMaps):
        return entry
    fields = {"kind": entry} if isinstance(entry, str) else entry
    try:
        return UnitMaps.model_validate(fields)
    except ValidationError as error:
        (first, *_) = error.errors()
        where = ".".join(map(str, first["loc"])) or "the family"
        kinds = ", ".join(Kind)
        message = (
            f"`kinds` of group {group!r}: {where}: {first['msg']}, got {first['input']!r}; expected one of the kinds "
            f"{kinds}, or a mapping with `kind`, `produces`, `consumes`, `ones`, `zeros`, `pairs`, `biases`, "
            "`constant` and `slope`"
        )
        raise SpecError(message) from error


def _family(layout: Layout, group: str, maps: UnitMaps) -> LinearSymmetry:
    """Return the linear symmetry of a family, with the degree of every slot."""
    slots = slots_of(layout, group)
    ones = {slot.tensor for slot in _matched(maps.ones, slots, group, "ones")}
    zeros = {slot.tensor for slot in _matched(maps.zeros, slots, group, "zeros")}
    if not maps.produces and not maps.consumes:
        first = {name: len(stack.sizes) for name, stack in layout.stacks.items()}
        own = [slot for slot in slots if slot.tensor not in ones | zeros]
        degrees = {slot: -1 if slot.dim > first.get(slot.tensor, 0) else 1 for slot in own}
    else:
        degrees = dict.fromkeys(_matched(maps.produces, slots, group, "produces"), 1)
        for slot in _matched(maps.consumes, slots, group, "consumes"):
            if slot in degrees:
                message = (
                    f"`kinds` of group {group!r}: dimension {slot.dim} of `{slot.tensor}` is in `produces` and in "
                    f"`consumes`; give the dimension, as in '{slot.tensor}:{slot.dim}'"
                )
                raise SpecError(message)
            degrees[slot] = -1
    shifts = _shifts(layout, maps, degrees) if maps.kind is Kind.FLIP else ()
    if maps.kind in _SYMMETRIC:
        degrees = dict.fromkeys(degrees, 1)
    required = tuple(sorted(ones)), tuple(sorted(zeros))
    return LinearSymmetry(group, maps.kind, degrees, *required, maps.pairs, tuple(shifts))


def _shifts(layout: Layout, maps: UnitMaps, degrees: Mapping[Slot, int]) -> Iterator[Shift]:
    """Yield the layers that consume units, with their biases."""
    for weight in dict.fromkeys(slot.tensor for slot, degree in degrees.items() if degree == -1):
        module, dot, _ = weight.rpartition(".")
        bias = maps.biases.get(weight, f"{module}{dot}bias")
        if bias not in layout.axes:
            message = (
                f"flips need a bias after the units: {weight!r} has none named {bias!r}; name it in `biases`, or state "
                "no flips"
            )
            raise SpecError(message)
        consumed = {slot.dim for slot in degrees if slot.tensor == weight}
        dims = [dim for dim, axis in enumerate(layout.axes[weight]) if (axis,) == layout.axes[bias]]
        dim = next((dim for dim in dims if dim not in consumed), 0)
        yield Shift(weight, dim, bias, maps.constant, maps.slope)


def _matched(patterns: Sequence[str], slots: Sequence[Slot], group: str, field: str) -> list[Slot]:
    """Return the slots that patterns match, in the order of the layout."""
    found: set[Slot] = set()
    for pattern in patterns:
        own = {slot for slot in slots if _matches(pattern, slot, slots)}
        if not own:
            tensors = list(dict.fromkeys(slot.tensor for slot in slots))
            message = f"`{field}` of group {group!r}: no axis of the group matches; {nearest(pattern, tensors)}"
            raise SpecError(message)
        found |= own
    return [slot for slot in slots if slot in found]


def _matches(pattern: str, slot: Slot, slots: Sequence[Slot]) -> bool:
    name, dim, occurrence = _parsed(pattern)
    if not fnmatchcase(slot.tensor, name) or dim not in {None, slot.dim}:
        return False
    here = [other for other in slots if (other.tensor, other.dim) == (slot.tensor, slot.dim)]
    return occurrence is None or here.index(slot) == occurrence


def _parsed(pattern: str) -> tuple[str, int | None, int | None]:
    """Return the pattern of the name, and the indices of the dimension and of the occurrence, if they are given."""
    found = _INDEXED.fullmatch(pattern)
    if found is None:
        return pattern, None, None
    name, dim, occurrence = found.groups()
    return name, int(dim), None if occurrence is None else int(occurrence)
