"""Orientations of canonical forms: signs, angles and orthogonal maps that are determined by the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.maps.cell_pairs import cell_pairs
from rebasin_core.bilinear.maps.gauge import mapping
from rebasin_core.bilinear.maps.optimal import complement_of_ones
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.kind import Slot
    from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry

# Sums that are smaller, relative to the largest one, have no sign.
_ZERO = 1e-9


def orienting_element(symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> SymmetryElement:
    """Return the element of signs, angles and orthogonal maps that maps a network to its canonical orientation.

    Args:
        symmetry: The linear symmetries.
        tensors: The parameters of a network of minimal norm in float64, without buffers.

    Returns:
        The element, without permutations and scales.
    """
    orientation = _Orientation(symmetry, tensors)
    remaining = [name for name in symmetry.layout.groups if orientation.families(name)]
    while remaining:
        name = next((n for n in remaining if orientation.is_anchored(n, remaining)), remaining[0])
        orientation.orient(name, remaining)
        remaining.remove(name)
    return orientation.element


@final
class _Orientation:
    """A network, and the orientations of its groups so far."""

    def __init__(self, symmetry: Symmetry, tensors: Mapping[str, Tensor]) -> None:
        self._symmetry = symmetry
        self._tensors = dict(tensors)
        self.element = SymmetryElement.identity(symmetry)

    def families(self, group: str) -> list[LinearSymmetry]:
        """Return the linear symmetries of a group that have other isometries than the identity."""
        return [linear for linear in self._symmetry.of(group) if linear.kind is not Kind.POSITIVE]

    def is_anchored(self, group: str, remaining: Collection[str]) -> bool:
        """Return whether weights shared with oriented groups only determine the orientation of a group."""
        return all(
            any(True for slot in linear.degrees for _ in self._rows(slot, group, remaining))
            for linear in self.families(group)
        )

    def orient(self, group: str, remaining: Collection[str]) -> None:
        """Orient a group by weights shared with oriented groups, if there are any."""
        families = self.families(group)
        signed = [linear for linear in families if linear.kind.has_signs]
        maps = self._signs(group, signed, remaining)
        for linear in families:
            if linear.kind is Kind.ROTATION:
                maps[self._symmetry.linear.index(linear)] = self._angles(linear, remaining)
            elif not linear.kind.is_factor:
                maps[self._symmetry.linear.index(linear)] = self._basis(linear, remaining)
        step = mapping(self._symmetry, maps)
        names = {slot.tensor for linear in families for slot in linear.degrees} & self._tensors.keys()
        self._tensors |= step.apply({name: self._tensors[name] for name in names})
        self.element = self.element.compose(step)

    def _rows(self, slot: Slot, group: str, remaining: Collection[str]) -> Iterator[Tensor]:
        """Yield the entries of each unit at a slot, ``[*outer, n, m]``, of cells without other remaining groups."""
        tensor = self._tensors.get(slot.tensor)
        if tensor is None:
            return
        layout = self._symmetry.layout
        outer = layout.ancestors(group)
        given = tensor.unsqueeze(0)
        for cell in cell_pairs(layout, slot.tensor, given, given):
            if slot not in cell.slots:
                continue
            position = cell.slots.index(slot)
            others = [name for number, name in enumerate(cell.groups) if number != position and name not in outer]
            if not set(others) & set(remaining):
                front = [*(cell.dims_of(name)[0] for name in outer), position + 1]
                yield cell.reference.movedim(front, [*range(len(front))]).flatten(len(front))

    def _sums(self, slot: Slot, group: str, remaining: Collection[str]) -> Tensor:
        """Return the sum of the entries of each unit at a slot, ``[*outer, n]``."""
        return torch.stack([rows.sum(-1) for rows in self._rows(slot, group, remaining)]).sum(0)

    def _ordered(self, slots: Collection[Slot], group: str, remaining: Collection[str]) -> Iterator[tuple[Slot, bool]]:
        """Yield slots, first those of vectors, and whether to restrict them to cells without remaining groups."""
        given = sorted((slot for slot in slots if slot.tensor in self._tensors), key=self._num_dims)
        yield from ((slot, True) for slot in given if any(True for _ in self._rows(slot, group, remaining)))
        yield from ((slot, False) for slot in given)

    def _num_dims(self, slot: Slot) -> int:
        return self._tensors[slot.tensor].dim()

    def _signs(self, group: str, families: Sequence[LinearSymmetry], remaining: Collection[str]) -> dict[int, Tensor]:
        """Return the signs of several families, for which the sums at independent slots are positive."""
        if not families:
            return {}
        slots = dict.fromkeys(slot for linear in families for slot, degree in linear.degrees.items() if degree % 2)
        nonzero: list[tuple[int, Tensor]] = []
        others: list[tuple[int, Tensor]] = []
        for slot, is_restricted in self._ordered(slots, group, remaining):
            sums = self._sums(slot, group, remaining if is_restricted else ())
            has_zero = bool((sums.abs() <= _ZERO * sums.abs().max()).any())
            mask = sum(linear.degrees.get(slot, 0) % 2 << number for number, linear in enumerate(families))
            (others if has_zero else nonzero).append((mask, sums < 0))
        flips = _flips([*nonzero, *others])
        indices = {number: self._symmetry.linear.index(families[number]) for number in flips}
        return {indices[number]: torch.where(flip, -1.0, 1.0).double() for number, flip in flips.items()}

    def _angles(self, linear: LinearSymmetry, remaining: Collection[str]) -> Tensor:
        """Return the rotations of pairs for which the sum at the first slot, as a complex number, is positive."""
        for slot, is_restricted in self._ordered(linear.degrees, linear.group, remaining):
            sums = self._sums(slot, linear.group, remaining if is_restricted else ())
            first, second = linear.pairs.parts(sums, -1)
            size = torch.hypot(first, second)
            if bool((size > 0).all()):
                return torch.stack([first / size, -second / size], -1)
        *outer, size_of_group = self._symmetry.layout.index_shape(linear.group)
        return torch.tensor([1.0, 0.0], dtype=torch.float64).expand(*outer, size_of_group // 2, 2)

    def _basis(self, linear: LinearSymmetry, remaining: Collection[str]) -> Tensor:
        """Return the matrices that map principal directions of all weights, sorted and signed, to fixed directions."""
        shape = self._symmetry.layout.index_shape(linear.group)
        like = next(iter(self._tensors.values()))
        gram = torch.zeros((*shape, shape[-1]), dtype=torch.float64, device=like.device)
        for slot in linear.degrees:
            for rows in self._rows(slot, linear.group, ()):
                gram += rows @ rows.mT
        is_fixing = linear.kind is Kind.ORTHOGONAL_FIXING_ONES
        fixed = complement_of_ones(gram) if is_fixing else torch.eye(shape[-1], dtype=gram.dtype, device=gram.device)
        directions = fixed @ torch.linalg.eigh(fixed.mT @ gram @ fixed).eigenvectors.flip(-1)
        signs = torch.zeros(directions.shape[:-2] + directions.shape[-1:], dtype=gram.dtype, device=gram.device)
        for slot, is_restricted in self._ordered(linear.degrees, linear.group, remaining):
            parts = [
                directions.mT @ rows for rows in self._rows(slot, linear.group, remaining if is_restricted else ())
            ]
            sums = torch.stack([part.sum(-1) for part in parts]).sum(0)
            sums = torch.where(sums.abs() > _ZERO * sums.abs().max(), sums, 0.0)
            signs = torch.where(signs == 0, sums.sign(), signs)
        signs = torch.where(signs == 0, 1.0, signs)
        found: Tensor = fixed @ (signs.unsqueeze(-1) * directions.mT)
        return found + 1 / shape[-1] if is_fixing else found


def _flips(candidates: Iterable[tuple[int, Tensor]]) -> dict[int, Tensor]:
    """Return which families flip, for the first independent equations modulo 2.

    Args:
        candidates: For each equation, the families in it as bits of an integer, and the sum of their flips.

    Returns:
        The flips by number of the family; those that are not determined are omitted.
    """
    solved: dict[int, tuple[int, Tensor]] = {}
    for given, target in candidates:
        mask, value = given, target
        for bit, (other, known) in solved.items():
            if mask >> bit & 1:
                mask, value = mask ^ other, value ^ known
        if mask:
            pivot = mask.bit_length() - 1
            reduced = {
                bit: (other ^ mask, known ^ value) if other >> pivot & 1 else (other, known)
                for bit, (other, known) in solved.items()
            }
            solved = {**reduced, pivot: (mask, value)}
    return {bit: known for bit, (_, known) in solved.items()}
