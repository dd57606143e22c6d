"""From settled equations to a layout: groups with names, and the axes of every parameter and buffer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, final

from rebasin_core.specs.unification.nesting import Companions, parents
from rebasin_core.specs.unification.settle import Slices, chosen_in
from rebasin_core.specs.unification.terms import Reason, Term, Unknown, expand, leaves, unknowns
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, atoms_of, concat, product
from rebasin_core.symmetry.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from rebasin_core.specs.unification.equations import Equations


_ODD: Final = re.compile(r"[^\w.\[\]]")  # what the notation does not allow in names


@final
@dataclass(frozen=True, slots=True)
class Solution:
    """What the equations say.

    Attributes:
        layout: Groups and axes.
        reasons: For every tensor and dimension, why what is fixed there is fixed; empty where all of it moves.
    """

    layout: Layout
    reasons: Mapping[str, tuple[tuple[Reason, ...], ...]]


def solve(equations: Equations, tensors: Mapping[str, tuple[Term, ...]], *, movable: Collection[str]) -> Solution:
    """Return the largest specification that the equations leave.

    Args:
        equations: All equations of a graph.
        tensors: The terms of every parameter and buffer, by name.
        movable: The names of the parameters: a group that acts on none of them is no symmetry of what is learnt.

    Returns:
        The solution.
    """
    learnt = {leaf for name in movable for term in tensors[name] for leaf in leaves(term)}
    for name, terms in tensors.items():
        for leaf in {leaf for term in terms for leaf in leaves(term)} - learnt:
            leaf.fixed = leaf.fixed or Reason("none", name, "no parameter moves with it")
    numbered, axes = _settled(equations, tensors)
    companions = Companions(equations)
    order = [numbered[label] for label in _labels(axes)]
    within = parents(companions, order)
    label_of = {unknown: label for label, unknown in numbered.items()}
    groups = {
        label_of[unknown]: Group(
            label_of[unknown], unknown.size, label_of[outer] if (outer := within[unknown]) else None
        )
        for unknown in order
    }
    groups, axes = _fuse(companions, numbered, groups, axes)
    reasons = {name: tuple(tuple(_reasons(term)) for term in terms) for name, terms in tensors.items()}
    return Solution(_named(groups, axes), reasons)


def _settled(
    equations: Equations, tensors: Mapping[str, tuple[Term, ...]]
) -> tuple[dict[str, Unknown], dict[str, tuple[Axis, ...]]]:
    """Return the axes of all tensors once every slice is settled, and the unknowns behind the names of their groups."""
    slices = Slices(equations, list(tensors.values()))
    while True:
        slices.settle()
        numbered: dict[str, Unknown] = {}
        axes = {name: tuple(_axis(equations, term, numbered) for term in terms) for name, terms in tensors.items()}
        sliced = {unknown for unknown, _, _ in equations.children}
        left = [unknown for unknown in numbered.values() if unknown in sliced]
        if not left:
            return numbered, axes
        for unknown in left:  # differs by slices in a way that no axis here can say
            slices.tie(unknown)


def _axis(equations: Equations, term: Term, numbered: dict[str, Unknown]) -> Axis:
    """Return the axis of a settled term; its groups have numbers for names."""
    factors = expand(term)
    if not factors:
        return Atom(1)
    head, rest = factors[0], factors[1:]
    if not (isinstance(head, Unknown) and head.parts):
        atom = Atom(head.size)
        if isinstance(head, Unknown) and not head.fixed:
            numbered[str(head.number)] = head
            atom = Atom(head.size, str(head.number))
        return product(atom, _axis(equations, rest, numbered))
    inside = [chosen_in(equations, rest, head, part) for part in range(len(head.parts))]
    if all(choice == rest for choice in inside):
        return product(
            concat(*(_axis(equations, part, numbered) for part in head.parts)), _axis(equations, rest, numbered)
        )
    return concat(*(_axis(equations, (*p, *choice), numbered) for p, choice in zip(head.parts, inside, strict=True)))


def _labels(axes: Mapping[str, tuple[Axis, ...]]) -> list[str]:
    """Return the names of all groups in the order in which they are met, outer factors first."""
    found = (atom.group for dims in axes.values() for axis in dims for atom in atoms_of(axis))
    return list(dict.fromkeys(name for name in found if name is not None))


def _reasons(term: Term) -> Iterator[Reason]:
    yield from dict.fromkeys(unknown.fixed for unknown in unknowns(term) if unknown.fixed)


def _fuse(
    companions: Companions, numbered: dict[str, Unknown], groups: dict[str, Group], axes: dict[str, tuple[Axis, ...]]
) -> tuple[dict[str, Group], dict[str, tuple[Axis, ...]]]:
    """Make neighbours that nothing ever tells apart one group."""
    while True:
        pair = next(_fusable(companions, numbered, groups, axes), None)
        if pair is None:
            return groups, axes
        outer, inner = pair
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


def _fusable(
    companions: Companions, numbered: dict[str, Unknown], groups: dict[str, Group], axes: dict[str, tuple[Axis, ...]]
) -> Iterator[tuple[str, str]]:
    neighbours: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}
    for dims in axes.values():
        for axis in dims:
            for atom in atoms_of(axis):
                if atom.group is not None:
                    counts[atom.group] = counts.get(atom.group, 0) + 1
            for pair in _neighbours(axis):
                neighbours[pair] = neighbours.get(pair, 0) + 1
    for (outer, inner), count in neighbours.items():
        together = counts[outer] == count == counts[inner]
        inseparable = outer != inner and companions.inseparable(numbered[outer], numbered[inner])
        if together and inseparable and groups[inner].within == outer:
            yield outer, inner


def _neighbours(axis: Axis) -> Iterator[tuple[str, str]]:
    match axis:
        case Product(factors):
            for first, second in pairwise(factors):
                if isinstance(first, Atom) and isinstance(second, Atom) and first.group and second.group:
                    yield first.group, second.group
            for factor in factors:
                yield from _neighbours(factor)
        case Concat(parts):
            for part in parts:
                yield from _neighbours(part)
        case Atom():
            return


def _merged(axis: Axis, pair: tuple[str, str], size: int) -> Axis:
    match axis:
        case Product(factors):
            left = [
                Atom(size, pair[0])
                if isinstance(factor, Atom) and factor.group == pair[0]
                else _merged(factor, pair, size)
                for factor in factors
                if not (isinstance(factor, Atom) and factor.group == pair[1])
            ]
            return product(*left)
        case Concat(parts):
            return concat(*(_merged(part, pair, size) for part in parts))
        case Atom():
            return axis


def _named(groups: dict[str, Group], axes: dict[str, tuple[Axis, ...]]) -> Layout:
    """Return the layout with readable names: a group is called after the module that first meets it."""
    names: dict[str, str] = {}
    for tensor, dims in axes.items():
        module = tensor.rpartition(".")[0] or tensor
        for atom in (atom for axis in dims for atom in atoms_of(axis)):
            if atom.group is not None and atom.group not in names:
                names[atom.group] = _unused(module, groups[atom.group].within is not None, set(names.values()))
    return Layout(
        {
            names[label]: Group(names[label], group.size, names[group.within] if group.within else None)
            for label, group in groups.items()
        },
        {tensor: tuple(_renamed(axis, names) for axis in dims) for tensor, dims in axes.items()},
    )


def _unused(module: str, nested: bool, taken: set[str]) -> str:  # ruff: ignore[boolean-type-hint-positional-argument]
    base = _ODD.sub("_", f"{module}.inner" if nested else module)
    base = base if base[0].isalpha() or base[0] == "_" else f"units.{base}"
    name, number = base, 2
    while name in taken:
        name, number = f"{base}.{number}", number + 1
    return name


def _renamed(axis: Axis, names: Mapping[str, str]) -> Axis:
    match axis:
        case Atom(size, group):
            return Atom(size, None if group is None else names[group])
        case Product(factors):
            return Product(tuple(_renamed(factor, names) for factor in factors))
        case Concat(parts):
            return Concat(tuple(_renamed(part, names) for part in parts))
