"""Groups of a solution: merge inseparable groups, and name all groups after modules."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Final, TypeAlias

from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, atoms_of, concat, product
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.stack import Index, StackName

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

Groups: TypeAlias = "Mapping[str, Group]"
Axes: TypeAlias = "Mapping[str, tuple[Axis, ...]]"

_NOT_IN_NAMES: Final = re.compile(r"[^\w.\[\]]")  # not allowed in the notation of axes


def merge_inseparable(
    groups: Groups, axes: Axes, inseparable: Callable[[str, str], bool]
) -> tuple[Groups, Axes, Mapping[str, str]]:
    """Replace every product ``v*w`` of inseparable groups by one group of ``|v| |w|`` units.

    If v and w occur only as this product, all permutations of the product are symmetries.

    Args:
        groups: The groups by name.
        axes: The axes of all tensors.
        inseparable: Whether no cell of an observed tensor contains one of two groups without the other.

    Returns:
        The groups and axes; a merged group has the name of the outer group. The innermost of all groups that were
        merged, for every merged group.
    """
    innermost: dict[str, str] = {}
    while True:
        pair = next(_mergeable(groups, axes, inseparable), None)
        if pair is None:
            return groups, axes, innermost
        outer, inner = pair
        innermost[outer] = innermost.pop(inner, inner)
        size = groups[outer].size * groups[inner].size
        axes = {name: tuple(_merged(axis, pair, size) for axis in dims) for name, dims in axes.items()}
        groups = {
            name: Group(
                name,
                size if name == outer else group.size,
                outer if group.within == inner else group.within,
            )
            for name, group in groups.items()
            if name != inner
        }


def _mergeable(groups: Groups, axes: Axes, inseparable: Callable[[str, str], bool]) -> Iterator[tuple[str, str]]:
    every = [axis for dims in axes.values() for axis in dims]
    counts = Counter(atom.group for axis in every for atom in atoms_of(axis))
    adjacent = Counter(pair for axis in every for pair in _adjacent(axis))
    for (outer, inner), count in adjacent.items():
        if outer == inner or groups[inner].within != outer:
            continue
        if counts[outer] == count == counts[inner] and inseparable(outer, inner):
            yield outer, inner


def _adjacent(axis: Axis) -> Iterator[tuple[str, str]]:
    """Yield the groups of adjacent factors, once per occurrence."""
    match axis:
        case Product(factors):
            for first, second in pairwise(factors):
                if isinstance(first, Atom) and isinstance(second, Atom) and first.group and second.group:
                    yield first.group, second.group
            for factor in factors:
                yield from _adjacent(factor)
        case Concat(parts):
            for part in parts:
                yield from _adjacent(part)
        case Atom():
            return


def _merged(axis: Axis, pair: tuple[str, str], size: int) -> Axis:
    outer, inner = pair
    match axis:
        case Product(factors):
            kept = [factor for factor in factors if not (isinstance(factor, Atom) and factor.group == inner)]
            return product(*(_merged(factor, pair, size) for factor in kept))
        case Concat(parts):
            return concat(*(_merged(part, pair, size) for part in parts))
        case Atom(_, group):
            return Atom(size, outer) if group == outer else axis


def named_layout(groups: Groups, axes: Axes) -> tuple[Layout, Mapping[str, str]]:
    """Return a layout whose groups are named after the module of the first tensor that contains them.

    Args:
        groups: The groups by temporary names.
        axes: The axes of all tensors.

    Returns:
        The layout, and the name of each group by its temporary name.
    """
    names = _names_of_stacks(axes)
    # Also of stacks that cannot be exchanged: their names in braces would denote another group of that name.
    reserved = {index.group for tensor in axes for index in _indices_of(tensor)}
    for tensor, dims in axes.items():
        module = _module_of(tensor)
        for atom in (atom for axis in dims for atom in atoms_of(axis)):
            if atom.group is not None and atom.group not in names:
                nested = groups[atom.group].within is not None
                names[atom.group] = unused_name(f"{module}.inner" if nested else module, reserved.union(names.values()))
    layout = Layout(
        {
            names[name]: Group(names[name], group.size, names[group.within] if group.within else None)
            for name, group in groups.items()
        },
        {tensor: tuple(_renamed(axis, names) for axis in dims) for tensor, dims in axes.items()},
    )
    return layout, names


def _indices_of(tensor: str) -> tuple[Index, ...]:
    """Return the groups in the name of a stack; none for a single tensor."""
    stack = StackName.of(tensor)
    return () if stack is None else stack.indices


def _module_of(tensor: str) -> str:
    """Return the name of the module of a tensor; for a stack, without the part that differs."""
    stack = StackName.of(tensor)
    if stack is None:
        return tensor.rpartition(".")[0] or tensor
    parts = [part for part in "".join(stack.texts).rpartition(".")[0].split(".") if part]
    return ".".join(parts) or stack.indices[0].group


def _names_of_stacks(axes: Axes) -> dict[str, str]:
    """Return the names of groups in the names of stacks: those that permute the first axes of a stack."""
    names: dict[str, str] = {}
    for tensor, dims in axes.items():
        for index, axis in zip(_indices_of(tensor), dims, strict=False):
            if isinstance(axis, Atom) and axis.group is not None and index.group not in names.values():
                names.setdefault(axis.group, index.group)
    return names


def unused_name(wanted: str, used: Collection[str]) -> str:
    """Return a name for a group that no other group has.

    Args:
        wanted: The name, possibly with characters that the notation of axes does not allow.
        used: Names of other groups.

    Returns:
        The name, changed where it must be.
    """
    base = _NOT_IN_NAMES.sub("_", wanted)
    if not (base[0].isalpha() or base[0] == "_"):
        base = f"units.{base}"
    name = base
    number = 2
    while name in used:
        name = f"{base}.{number}"
        number += 1
    return name


def _renamed(axis: Axis, names: Mapping[str, str]) -> Axis:
    match axis:
        case Atom(size, group):
            return Atom(size, None if group is None else names[group])
        case Product(factors):
            return Product(tuple(_renamed(factor, names) for factor in factors))
        case Concat(parts):
            return Concat(tuple(_renamed(part, names) for part in parts))
