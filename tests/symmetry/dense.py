"""The action of group elements by explicit matrices on flattened tensors, entry by entry: an oracle."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rebasin_core import Layout
from rebasin_core.symmetry import Atom, Concat, Kind, Product, SymmetryElement
from rebasin_core.symmetry.axis import Axis

Array = npt.NDArray[np.float64]
Entry = dict[tuple[int, int], int]
"""The position of an entry: for every atom on its path, by dimension and number of the atom, the index on it."""


def entries(axes: Sequence[Axis]) -> list[Entry]:
    """Return the positions of all entries of a tensor, in row-major order."""
    return [
        {(dim, number): index for dim, path in enumerate(paths) for number, index in path}
        for paths in itertools.product(*(_paths(axis, 0)[0] for axis in axes))
    ]


def _paths(axis: Axis, first: int) -> tuple[list[list[tuple[int, int]]], int]:
    """Return the path of every position of an axis, and the number of the atom after it."""
    if isinstance(axis, Atom):
        return [[(first, index)] for index in range(axis.size)], first + 1
    parts = []
    for part in axis.factors if isinstance(axis, Product) else axis.parts:
        found, first = _paths(part, first)
        parts.append(found)
    if isinstance(axis, Concat):
        return [path for found in parts for path in found], first
    return [[step for path in chosen for step in path] for chosen in itertools.product(*parts)], first


def matrix_of(kind: Kind, value: Array, degree: int) -> Array:
    """Return one map as an ``[n, n]`` matrix, as it acts on a slot of a degree."""
    if kind.is_factor:
        result: Array = np.diag(value**degree)
        return result
    if kind is Kind.ROTATION:
        half = len(value)
        real, imag = np.diag(value[:, 0]), np.diag(value[:, 1])
        value = np.block([[real, -imag], [imag, real]])
        assert value.shape == (2 * half, 2 * half)
    return value if degree == 1 else np.asarray(np.linalg.inv(value).T, dtype=np.float64)


def operator(element: SymmetryElement, tensor: str) -> Array:
    """Return the matrix by which an element transforms the flattened entries of a tensor."""
    layout = element.symmetry.layout
    at = entries(layout.axes[tensor])
    groups = _groups(layout, tensor)
    result = np.eye(len(at))
    for linear, value in zip(element.symmetry.linear, element.maps, strict=True):
        for slot, degree in linear.degrees.items():
            if value is not None and slot.tensor == tensor:
                maps = {
                    outer: matrix_of(linear.kind, value.numpy()[outer], degree)
                    for outer in itertools.product(
                        *(range(layout.groups[g].size) for g in layout.ancestors(linear.group))
                    )
                }
                result = _step(at, groups, (slot.dim, slot.number), layout.ancestors(linear.group), maps) @ result
    return _permutation(element, tensor) @ result


def _step(
    at: list[Entry],
    groups: dict[tuple[int, int], str | None],
    key: tuple[int, int],
    ancestors: tuple[str, ...],
    maps: dict[tuple[int, ...], Array],
) -> Array:
    """Return the matrix of the map of one slot; entries in other parts of a concatenation do not change."""
    row = {frozenset(entry.items()): i for i, entry in enumerate(at)}
    step = np.eye(len(at))
    for j, old in enumerate(at):
        if key in old:
            outer = tuple(old[_occurrence(groups, group, old)] for group in ancestors)
            for new, coefficient in enumerate(maps[outer][:, old[key]]):
                step[row[frozenset({**old, key: new}.items())], j] = coefficient
    return step


def _groups(layout: Layout, tensor: str) -> dict[tuple[int, int], str | None]:
    found: dict[tuple[int, int], str | None] = {}
    for dim, axis in enumerate(layout.axes[tensor]):
        atoms: list[Atom] = []
        _collect(axis, atoms)
        found |= {(dim, number): atom.group for number, atom in enumerate(atoms)}
    return found


def _collect(axis: Axis, atoms: list[Atom]) -> None:
    if isinstance(axis, Atom):
        atoms.append(axis)
        return
    for part in axis.factors if isinstance(axis, Product) else axis.parts:
        _collect(part, atoms)


def _occurrence(groups: dict[tuple[int, int], str | None], group: str, entry: Entry) -> tuple[int, int]:
    """Return the atom of an entry that belongs to an outer group."""
    (found,) = [key for key, name in groups.items() if name == group and key in entry]
    return found


def _permutation(element: SymmetryElement, tensor: str) -> Array:
    """Return the permutation matrix of a tensor: new[i] = old[p[i]] at every atom with a permuted group."""
    layout = element.symmetry.layout
    at = entries(layout.axes[tensor])
    row = {frozenset(entry.items()): i for i, entry in enumerate(at)}
    groups = _groups(layout, tensor)
    result = np.zeros((len(at), len(at)))
    for i, new in enumerate(at):
        old = dict(new)
        for key, position in new.items():
            group = groups[key]
            if group is not None and group in element.permutation.indices:
                outer = tuple(new[_occurrence(groups, name, new)] for name in layout.ancestors(group))
                old[key] = int(element.permutation.indices[group][*outer, position])
        result[i, row[frozenset(old.items())]] = 1
    return result
