"""Block coordinate ascent over permutations, signs and orthogonal maps of units: one group at a time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.assignment import default_solver
from rebasin_core.bilinear.maps.cell_pairs import cell_pairs
from rebasin_core.bilinear.maps.gauge import mapping, transformed
from rebasin_core.bilinear.maps.optimal import best_map, best_value, can_improve
from rebasin_core.bilinear.maps.products import unit_products
from rebasin_core.bilinear.maps.signs import SignFamilies
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from torch import Tensor

    from rebasin_core.assignment import AssignmentSolver
    from rebasin_core.bilinear.maps.cell_pairs import SlotCell
    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry

# A step is accepted only if its increase exceeds rounding.
_RELATIVE_TOLERANCE = 1e-9
# Number of sweeps after which the current network is recomputed from the candidate: as costly as a third of a sweep.
_RECOMPUTED = 8


@final
class MapDescent:
    r"""Block coordinate ascent for $\max_g \langle \phi, g\,\psi \rangle$ over the compact part of a symmetry group.

    Both networks must be in the same gauge (see `balanced`). Each step optimizes one group with all others fixed: by
    linear assignment, by signs, by Procrustes problems, or by angles, as the kind of the group admits. An outer group
    and its inner groups are optimized together: the similarity of two outer units is the value of the best maps of
    their inner units. A step is accepted only if the objective increases.

    Args:
        symmetry: The linear symmetries.
        reference: Channels ``[C, *s]`` of every parameter of the reference, in float64.
        candidate: Channels of the candidate.
        initial: Permutation to start from; the identity if None.
        solver: Solver of assignment problems; the fastest exact one if None.

    Attributes:
        element: The current element; applied to the candidate it gives the current network.
    """

    def __init__(
        self,
        symmetry: Symmetry,
        reference: Channels,
        candidate: Channels,
        *,
        initial: SymmetryElement | None = None,
        solver: AssignmentSolver | None = None,
    ) -> None:
        self._symmetry = symmetry
        self._layout = symmetry.layout
        self._reference = dict(self._layout.stacked(reference))
        self._candidate = dict(self._layout.stacked(candidate))
        self._solver = solver or default_solver()
        self._tensors = {name: self._layout.tensors_of(name) for name in self._layout.groups}
        self._scale = sum(_product(t, t) for t in self._reference.values())
        self.start_at(initial)

    def start_at(self, initial: SymmetryElement | None) -> None:
        """Start, or restart, at an element.

        Args:
            initial: The element; the identity if None.
        """
        self._num_sweeps = 0
        self.element = initial or SymmetryElement.identity(self._symmetry)
        self._current = transformed(self.element, self._candidate, set(self._candidate))

    def objective(self) -> float:
        """Return the inner product of the reference and the current network."""
        return math.fsum(_product(t, self._current[name]) for name, t in self._reference.items())

    def initialize(self) -> None:
        """Optimize every group once, by the weights shared with groups that are already optimized.

        The next group is the one with the largest share of such weights. At first these are weights next to inputs and
        outputs, such as embeddings.
        """
        todo = [name for name, group in self._layout.groups.items() if group.within is None]
        known: set[str] = set()
        while todo:
            shares = {name: self._share(name, known) for name in todo}
            name = max(todo, key=shares.__getitem__)
            todo.remove(name)
            if shares[name] > 0:
                self._step(name, known)
            known |= {name, *self._inner(name)}

    def sweep(self, generator: torch.Generator) -> float:
        """Optimize every group once, in random order.

        Args:
            generator: Source of the order.

        Returns:
            The increase of the objective, relative to the squared norm of the reference.
        """
        names = [name for name, group in self._layout.groups.items() if group.within is None]
        order = torch.randperm(len(names), generator=generator, device=generator.device).tolist()
        total = math.fsum(self._step(names[number], None) for number in order)
        self._num_sweeps += 1
        if self._num_sweeps % _RECOMPUTED == 0:  # rounding does not accumulate over many sweeps
            self._current = transformed(self.element, self._candidate, set(self._candidate))
        return total / max(self._scale, torch.finfo(torch.float64).tiny)

    def _inner(self, name: str) -> list[str]:
        return [other for other in self._layout.outer_first if name in self._layout.ancestors(other)]

    def _step(self, name: str, known: Collection[str] | None) -> float:
        """Optimize an outermost group and its inner groups; return the increase of the objective."""
        inner = self._inner(name)
        names = set(self._tensors[name]).union(*(self._tensors[other] for other in inner)) & self._reference.keys()
        before = self._part(names)
        saved = self.element, self._current
        if inner and name not in self._symmetry.unpermuted:
            self._assign_outer(name, inner, known)
        for other in inner or [name]:
            self._optimize(other, known)
        increase = self._part(names) - before
        if known is None and increase <= _RELATIVE_TOLERANCE * self._scale:
            self.element, self._current = saved
            return 0.0
        return increase

    def _part(self, names: Collection[str]) -> float:
        return math.fsum(_product(self._reference[name], self._current[name]) for name in sorted(names))

    def _apply(self, step: SymmetryElement, names: Collection[str]) -> None:
        self._current = transformed(step, self._current, set(names) & self._reference.keys())
        self.element = self.element.compose(step)

    def _cells(self, name: str, known: Collection[str] | None) -> Iterator[SlotCell]:
        """Yield the cells on which a group acts, without those of other groups that are not known."""
        own = {name, *self._layout.ancestors(name), *self._inner(name)}
        for outer in self._layout.ancestors(name)[:1]:
            own |= set(self._inner(outer))
        for tensor in self._tensors[name]:
            if tensor not in self._reference:
                continue
            for cell in cell_pairs(self._layout, tensor, self._reference[tensor], self._current[tensor]):
                others = {group for group in cell.groups if group is not None} - own
                if name in cell.groups and (known is None or others <= set(known)):
                    yield cell

    def _share(self, name: str, known: Collection[str]) -> float:
        """Return the share of the weights of a group that are shared with known groups only."""

        def weight(cells: Iterator[SlotCell]) -> float:
            return math.fsum(float(cell.reference.norm() * cell.candidate.norm()) for cell in cells)

        return weight(self._cells(name, known)) / max(weight(self._cells(name, None)), 1e-300)

    def _optimize(self, name: str, known: Collection[str] | None) -> None:
        """Optimize one group within each unit of its outer groups."""
        families = self._symmetry.of(name)
        outer = self._layout.ancestors(name)
        mixing = [linear for linear in families if linear.kind is Kind.ROTATION or not linear.kind.is_factor]
        if mixing:
            for linear in mixing:
                similarity = self._similarity(name, known, outer, linear)
                if not can_improve(linear.kind, similarity, _RELATIVE_TOLERANCE * self._scale):
                    continue
                number = self._symmetry.linear.index(linear)
                step = mapping(self._symmetry, {number: best_map(linear.kind, similarity, pairs=linear.pairs)})
                self._apply(step, {slot.tensor for slot in linear.degrees})
            return
        signs = SignFamilies.of(self._symmetry, name)
        similarities = self._by_signs(name, known, outer, signs)
        total, choice = signs.best(similarities)
        if name in self._symmetry.unpermuted:
            index = torch.arange(total.shape[-1], device=total.device).expand(total.shape[:-1])
        else:
            index = self._solver.solve(total).index
        self._permute({name: index})
        chosen = torch.take_along_dim(choice, index.unsqueeze(-1).unsqueeze(0), dim=-1).squeeze(-1)
        maps = signs.maps(chosen)
        if maps:
            self._apply(mapping(self._symmetry, maps), self._tensors[name])

    def _permute(self, indices: Mapping[str, Tensor]) -> None:
        layout = self._symmetry.permutations
        identity = Permutation.identity(layout).indices
        permutation = Permutation(layout, {**identity, **indices})
        step = SymmetryElement(self._symmetry, permutation, [None] * len(self._symmetry.linear))
        names = {tensor for name in indices for tensor in self._tensors[name]}
        self._apply(step, names)

    def _similarity(
        self, name: str, known: Collection[str] | None, outer: Collection[str], linear: LinearSymmetry
    ) -> Tensor:
        """Return the similarities of the slots that a linear symmetry transforms: ``[*outer, n, n]``."""
        shape = self._layout.index_shape(name)
        like = next(iter(self._reference.values()))
        total = like.new_zeros((*shape, shape[-1]))
        for cell in self._cells(name, known):
            for position, slot in enumerate(cell.slots):
                if slot in linear.degrees:
                    batch = [cell.dims_of(group)[0] for group in outer]
                    total += unit_products(cell.reference, cell.candidate, batch=batch, compared=[position + 1])
        return total

    def _by_signs(
        self, name: str, known: Collection[str] | None, outer: Collection[str], signs: SignFamilies
    ) -> Tensor:
        """Return the similarities by the families that change the sign of a slot: ``[patterns, *outer, n, n]``."""
        shape = self._layout.index_shape(name)
        like = next(iter(self._reference.values()))
        total = like.new_zeros((len(signs.patterns), *shape, shape[-1]))
        for cell in self._cells(name, known):
            for position, slot in enumerate(cell.slots):
                if slot is None or cell.groups[position] != name:
                    continue
                batch = [cell.dims_of(group)[0] for group in outer]
                first, rest = cell.reference[:1], cell.candidate[:1]
                total[signs.pattern_of(slot)] += unit_products(first, rest, batch=batch, compared=[position + 1])
                if len(cell.reference) > 1:  # standard deviations have no sign
                    first, rest = cell.reference[1:], cell.candidate[1:]
                    total[0] += unit_products(first, rest, batch=batch, compared=[position + 1])
        return total

    def _assign_outer(self, name: str, inner: list[str], known: Collection[str] | None) -> None:
        """Assign the units of an outer group, by the best maps of their inner units."""
        size = self._layout.groups[name].size
        like = next(iter(self._reference.values()))
        total = like.new_zeros((size, size))
        for group in inner:
            total += self._pair_values(name, group, inner, known)
        for cell in self._cells(name, known):
            if not set(inner) & set(cell.groups):
                for dim in cell.dims_of(name):
                    total += unit_products(cell.reference, cell.candidate, batch=[], compared=[dim])
        self._permute({name: self._solver.solve(total).index})

    def _pair_values(self, name: str, group: str, inner: list[str], known: Collection[str] | None) -> Tensor:
        """Return, for all pairs of outer units, the value of the best maps of the units of one inner group."""
        between = [other for other in self._layout.ancestors(group) if other != name]
        count, size = self._layout.groups[name].size, self._layout.groups[group].size
        middle = [self._layout.groups[other].size for other in between]
        like = next(iter(self._reference.values()))
        mixing = [linear for linear in self._symmetry.of(group) if not linear.kind.is_factor]
        pieces: dict[int, Tensor] = {}
        for cell in self._cells(group, known):
            here = [other for other in inner if other in cell.groups]
            if group != max(here, key=lambda other: self._layout.groups[other].size):
                continue  # counted with a larger group of the same cell
            for position, slot in enumerate(cell.slots):
                if slot is None or cell.groups[position] != group:
                    continue
                number = next((i for i, linear in enumerate(mixing) if slot in linear.degrees), -1)
                batch = [cell.dims_of(other)[0] for other in between]
                compared = [cell.dims_of(name)[0], position + 1]
                found = unit_products(cell.reference, cell.candidate, batch=batch, compared=compared)
                pieces[number] = pieces.get(number, 0) + found
        total = like.new_zeros((count, count))
        for number, piece in pieces.items():
            # [*middle, H, n, H, n] -> [*middle, H, H, n, n]
            pairs = piece.transpose(-3, -2)
            if number >= 0:
                values = best_value(mixing[number].kind, pairs, pairs=mixing[number].pairs)
            else:
                values = self._assigned(pairs, size)
            total += values.reshape(-1, count, count).sum(0) if middle else values
        return total

    def _assigned(self, pairs: Tensor, size: int) -> Tensor:
        """Return the values of the best assignments of ``[..., n, n]`` similarities."""
        flat = pairs.reshape(-1, size, size)
        index = self._solver.solve(flat).index
        return flat.gather(-1, index.unsqueeze(-1)).sum((-2, -1)).reshape(pairs.shape[:-2])


def _product(first: Tensor, second: Tensor) -> float:
    return float((first.double() * second.double()).sum())
