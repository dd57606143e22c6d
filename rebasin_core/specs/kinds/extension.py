"""The layout of a symmetry: that of the permutations, extended by groups whose units cannot be permuted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.specs.kinds.unpermuted import is_open
from rebasin_core.specs.unification.groups import unused_name
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, atoms_of, concat, product
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.linear import LinearSymmetry, Slot, Symmetry

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from rebasin_core.specs.kinds.families import Family
    from rebasin_core.specs.kinds.slots import Slots


def fixed_groups(slots: Slots) -> dict[str, list[Slot]]:
    """Return groups of the slots of fixed axes: those that are related by statements of the graph.

    Args:
        slots: All slots, after the second interpretation.

    Returns:
        The slots of each group, by a name after the module of the first one.
    """
    constraints = slots.constraints
    linked = [one.first.slots | one.second.slots for one in constraints.equations]
    linked += [one.degree.slots for one in constraints.seen]
    found: dict[str, list[Slot]] = {}
    for own in _components(slots.unpermuted, linked):
        module = own[0].tensor.rpartition(".")[0] or own[0].tensor
        kind = "pairs" if own[0] in slots.pairs else "fixed"
        found[unused_name(f"{module}.{kind}", [*slots.layout.groups, *found])] = own
    return found


def is_uniform(slots: Slots, own: Iterable[Slot]) -> bool:
    """Return whether all slots of a group of fixed axes have the same length.

    Args:
        slots: All slots.
        own: Those of the group.

    Returns:
        Whether they can be one group.
    """
    return len({slots.unpermuted[slot].size for slot in own}) == 1


def extended_symmetry(
    slots: Slots, families: Mapping[str, Sequence[Family]], within: Mapping[str, str | None]
) -> Symmetry:
    """Return the symmetry with some families of maps.

    Args:
        slots: All slots.
        families: The families by group. Groups that the layout does not have are added to it.
        within: The outer group of each of these, or None.

    Returns:
        The symmetry. Its layout is that of the permutations if no group is added.
    """
    added = {name: own for name, own in families.items() if name not in slots.layout.groups}
    names = {slot: name for name, own in added.items() for family in own for slot in family.degrees}
    axes: dict[str, tuple[Axis, ...]] = {}
    moved: dict[Slot, Slot] = {}
    for tensor, old in slots.axes.items():
        new: list[Axis] = []
        for dim, axis in enumerate(old):
            new.append(_extended(axis, tensor, dim, names))
            moved.update(_renumbered(axis, new[-1], tensor, dim, names))
        axes[tensor] = tuple(new)
    layout = slots.layout
    if added:
        sizes = {name: slots.unpermuted[next(iter(own[0].degrees))].size for name, own in added.items()}
        groups = {name: Group(name, size, within[name]) for name, size in sizes.items()}
        layout = Layout({**layout.groups, **groups}, axes, layout.buffers, layout.aliases)
    linear = [
        LinearSymmetry(
            name,
            family.kind,
            {moved[slot]: degree for slot, degree in family.degrees.items()},
            tuple(dict.fromkeys(slot.tensor for slot in family.ones)),
            tuple(dict.fromkeys(slot.tensor for slot in family.zeros)),
            family.pairs,
            family.shifts,
        )
        for name, own in families.items()
        for family in own
    ]
    return Symmetry(layout, tuple(linear), frozenset(added))


def _extended(axis: Axis, tensor: str, dim: int, names: Mapping[Slot, str]) -> Axis:
    """Return an open axis with the added groups instead of temporary ones."""
    atoms = enumerate(atoms_of(axis))
    groups = iter([names.get(Slot(tensor, dim, n)) if is_open(atom) else atom.group for n, atom in atoms])
    return _relabeled(axis, groups)


def _renumbered(old: Axis, new: Axis, tensor: str, dim: int, names: Mapping[Slot, str]) -> Iterator[tuple[Slot, Slot]]:
    """Yield the slots of an open axis, with those of the axis of the symmetry."""
    before = [Slot(tensor, dim, n) for n, atom in enumerate(atoms_of(old)) if atom.group is not None]
    kept = [slot for slot, atom in zip(before, _grouped(old), strict=True) if not is_open(atom) or slot in names]
    after = [Slot(tensor, dim, n) for n, atom in enumerate(atoms_of(new)) if atom.group is not None]
    return zip(kept, after, strict=True)


def _grouped(axis: Axis) -> Iterator[Atom]:
    return (atom for atom in atoms_of(axis) if atom.group is not None)


def _relabeled(axis: Axis, groups: Iterator[str | None]) -> Axis:
    """Return an axis in normal form with other groups, given for every atom."""
    match axis:
        case Atom(size):
            return Atom(size, next(groups))
        case Product(factors):
            return product(*[_relabeled(factor, groups) for factor in factors])
        case Concat(parts):
            return concat(*[_relabeled(part, groups) for part in parts])


def _components(slots: Iterable[Slot], linked: Iterable[Collection[Slot]]) -> list[list[Slot]]:
    """Return the connected components of slots, by the sets of slots that occur in one statement."""
    root = {slot: slot for slot in slots}

    def find(slot: Slot) -> Slot:
        while root[slot] != slot:
            root[slot] = root[root[slot]]
            slot = root[slot]
        return slot

    for together in linked:
        own = [slot for slot in together if slot in root]
        for slot in own[1:]:
            root[find(slot)] = find(own[0])
    found: dict[Slot, list[Slot]] = {}
    for slot in root:
        found.setdefault(find(slot), []).append(slot)
    return list(found.values())
