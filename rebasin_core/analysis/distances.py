"""Distances between two networks, per tensor and per group, before and after alignment."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from rebasin_core.bilinear.pieces import pieces
from rebasin_core.bilinear.products import total_product
from rebasin_core.bilinear.terms import terms_of
from rebasin_core.symmetry.action import act_on_cell
from rebasin_core.symmetry.cell import atom_rows
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import torch
    from torch import Tensor

    from rebasin_core.bilinear.terms import Term
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.permutation import GroupElement


@final
@dataclass(frozen=True, slots=True)
class Distance:
    r"""How far two networks $a$ and $b$ are apart in some of their tensors, before and after alignment by $g$.

    Attributes:
        reference: $\lVert a \rVert^2$.
        candidate: $\lVert b \rVert^2$.
        before: $\lVert a - b \rVert^2$.
        after: $\lVert a - g\,b \rVert^2$.
        size: Number of entries.
        aligned_candidate: $\lVert g\,b \rVert^2$; that of ``candidate`` if None, as for permutations.
    """

    reference: float = 0.0
    candidate: float = 0.0
    before: float = 0.0
    after: float = 0.0
    size: int = 0
    aligned_candidate: float | None = None

    def __add__(self, other: Distance) -> Distance:
        """Return the distance in the tensors of both."""
        return Distance(
            self.reference + other.reference,
            self.candidate + other.candidate,
            self.before + other.before,
            self.after + other.after,
            self.size + other.size,
            self._norm_after + other._norm_after,
        )

    @property
    def _norm_after(self) -> float:
        return self.candidate if self.aligned_candidate is None else self.aligned_candidate

    @property
    def unaligned(self) -> float:
        r"""Relative distance before alignment.

        $$ \lVert a - b \rVert \big/ \sqrt{(\lVert a \rVert^2 + \lVert b \rVert^2) / 2} $$

        0 for equal networks, and $\sqrt{2}$ for orthogonal ones; NaN if both are zero.
        """
        return self._relative(self.before, self.candidate)

    @property
    def aligned(self) -> float:
        """Relative distance after alignment."""
        return self._relative(self.after, self._norm_after)

    @property
    def cosine_before(self) -> float:
        r"""Cosine similarity $\langle a, b \rangle / (\lVert a \rVert \lVert b \rVert)$ before alignment."""
        return self._cosine(self.before, self.candidate)

    @property
    def cosine_after(self) -> float:
        """Cosine similarity after alignment."""
        return self._cosine(self.after, self._norm_after)

    @property
    def explained(self) -> float:
        r"""Removed share of the squared distance: $1 - \lVert a - gb \rVert^2 / \lVert a - b \rVert^2$."""
        return 1 - self.after / self.before if self.before > 0 else 0.0

    def _relative(self, squared: float, candidate: float) -> float:
        scale = (self.reference + candidate) / 2
        return math.sqrt(squared / scale) if scale > 0 else math.nan

    def _cosine(self, squared: float, candidate: float) -> float:
        scale = math.sqrt(self.reference) * math.sqrt(candidate)
        if scale <= 0:
            return math.nan
        return min(1.0, max(-1.0, (self.reference + candidate - squared) / (2 * scale)))


@final
@dataclass(frozen=True, slots=True)
class NetworkDistances:
    """Distances between two networks by tensor.

    Attributes:
        tensors: The distance of every tensor that both networks have, by name.
        groups: For each group, the names of the tensors on which it acts.
    """

    tensors: Mapping[str, Distance]
    groups: Mapping[str, tuple[str, ...]]

    @property
    def total(self) -> Distance:
        """The distance in all tensors."""
        return sum(self.tensors.values(), Distance())

    @property
    def permuted(self) -> Distance:
        """The distance in the tensors on which any group acts."""
        names = {name for tensors in self.groups.values() for name in tensors}
        return self.of(names)

    @property
    def fixed(self) -> Distance:
        """The distance in the tensors on which no group acts: alignment does not change it."""
        names = {name for tensors in self.groups.values() for name in tensors}
        return self.of(name for name in self.tensors if name not in names)

    @property
    def coverage(self) -> float:
        """Share of all entries that are in tensors on which a group acts."""
        size = self.total.size
        return self.permuted.size / size if size else 0.0

    def of(self, names: Iterable[str]) -> Distance:
        """Return the distance in some tensors.

        Args:
            names: Names of tensors.

        Returns:
            Their distance.
        """
        return sum((self.tensors[name] for name in names), Distance())

    def of_group(self, group: str) -> Distance:
        """Return the distance in the tensors on which a group acts. Most tensors belong to several groups.

        Args:
            group: Name of the group.

        Returns:
            The distance.
        """
        return self.of(self.groups[group])


def network_distances(
    layout: Layout,
    reference: Mapping[str, Tensor],
    candidate: Mapping[str, Tensor],
    element: GroupElement | None = None,
    *,
    device: torch.device | None = None,
    progress: Callable[[str], None] | None = None,
) -> NetworkDistances:
    """Return the distances between two networks before and after a permutation or other group element.

    Tensors are read one at a time, large ones in slices; the permuted candidate is not constructed.

    Args:
        layout: The groups, and the axes of all tensors.
        reference: Tensors of the reference by name: parameters, and buffers if wanted.
        candidate: Tensors of the candidate; names that only one network has are ignored.
        element: The group element that is applied to the candidate; the identity if None.
        device: Device of the products, to which slices of the tensors are copied; that of the tensors if None.
        progress: Called with the name of each tensor when it is done.

    Returns:
        The distances. Products are summed in the precision of the tensors, at least single, and totals in float64.
    """
    permuted = {} if element is None else element.permutation.indices
    indices = {name: index.to(device=device) for name, index in permuted.items()}
    maps = element.linear_maps if isinstance(element, SymmetryElement) else None
    found: dict[str, Distance] = {}
    for name, (tensor, own) in _compared(layout, reference, candidate):
        if _is_number(tensor) and _is_number(own):
            terms = terms_of(layout.axes[name], tensor.unsqueeze(0), own.unsqueeze(0), device=device)
            found[name] = _distance(layout, indices, terms, tensor.numel())
            if maps is not None and maps.moves(name):
                mapped = maps.act_among(name, own.to(device=device), candidate).unsqueeze(0)
                terms = terms_of(layout.axes[name], tensor.unsqueeze(0), mapped, device=device)
                after = _distance(layout, indices, terms, tensor.numel())
                found[name] = replace(found[name], after=after.after, aligned_candidate=after.candidate)
            if progress is not None:
                progress(name)
    acting = {name: {atom.group for row in atom_rows(layout.axes[name]) for atom in row} for name in found}
    groups = {group: tuple(name for name in found if group in acting[name]) for group in layout.groups}
    return NetworkDistances(found, groups)


def _compared(
    layout: Layout, reference: Mapping[str, Tensor], candidate: Mapping[str, Tensor]
) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
    """Yield the tensors that both networks have, by the names in the axes of the layout; one stack at a time."""
    for name in reference:
        stack = layout.stacks.get(layout.key(name))
        if stack is None and name in candidate and name in layout.axes:
            yield name, (reference[name], candidate[name])
        elif stack is not None and name == stack.members[0] and all(m in candidate for m in stack.members):
            key = layout.key(name)
            sides = [layout.stacked({m: side[m] for m in stack.members})[key] for side in (reference, candidate)]
            yield key, (sides[0], sides[1])


def _distance(layout: Layout, indices: Mapping[str, Tensor], terms: Iterable[Term], size: int) -> Distance:
    total = Distance(size=size)
    for term in terms:
        before = reference_norm = candidate_norm = 0.0
        for reference, candidate, _ in pieces(term, {}):
            reference_norm += total_product(reference, reference)
            candidate_norm += total_product(candidate, candidate)
            before += _squared(reference - candidate)
        after = _aligned_distance(layout, indices, term) if indices and term.groups else before
        total += Distance(reference_norm, candidate_norm, before, after)
    return total


def _aligned_distance(layout: Layout, indices: Mapping[str, Tensor], term: Term) -> float:
    value = 0.0
    for reference, candidate, done in pieces(term, indices, nested=layout.nesting):
        value += _squared(reference - act_on_cell(layout, indices, candidate, term.atoms, skip=done))
    return value


def _squared(difference: Tensor) -> float:
    return total_product(difference, difference)


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0
