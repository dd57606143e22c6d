"""Joint assignment of a group and those nested directly in it: for every pair of outer units, assignments within."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.bilinear.pair_products import PairProducts, at_assignment
from rebasin_core.bilinear.pieces import MAX_ENTRIES, pieces
from rebasin_core.bilinear.products import picked
from rebasin_core.symmetry.action import act_on_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.assignment import AssignmentSolver
    from rebasin_core.bilinear.levels import Level
    from rebasin_core.bilinear.terms import Term

# Maximum number of alternations between nested groups that are coupled by a term. On pairs of random RegNets, the
# objective is 1.1 % larger than with separate steps after 3, 0.8 % after 1, and 0.4 % without alternations.
_MAX_ALTERNATIONS = 3
# An alternation is accepted only if it increases the value of a pair by more than rounding.
_RELATIVE_TOLERANCE = 1e-6


@final
class TwoLevels:
    r"""Values of all pairs of units of an outer group, each with the best assignment of the nested groups.

    $$ V_{ij} = \max_{q_1, q_2, \dots} \sum_c \langle \phi_c^{(i)}, (q_1, q_2, \dots)\, \psi_c^{(j)} \rangle $$

    where $\phi_c^{(i)}$ is the part of a term that belongs to unit $i$ of the outer group. If every term has one nested
    group, the maximum is exact: one assignment problem for each pair and nested group. If a term has several (a grouped
    convolution permutes its inputs and outputs within each of its groups), they are *coupled*, and optimized
    alternately, starting with those that are best determined by other terms.

    The outer units can be those of several levels together: of a group and of the groups around it.

    Args:
        level: The outer units.
        terms: Terms on which the outer group acts and at least one group nested directly in it, and none deeper.
        indices: Current permutations of all groups. The result does not depend on those of the outer units and within.
        solver: Solver of the assignment problems.
        pairs: Kept inner products of all pairs of units; None if they are computed for this result only.

    Complexity:
        For n outer units with m units of a nested group in each: a product over n m units for each term, and n^2
        assignments of size m. For coupled groups, up to four times the assignments, and products over n^2 pairs
        of m units, with at most one slice of permuted candidates in memory at a time.
    """

    def __init__(
        self,
        level: Level,
        terms: Sequence[Term],
        indices: Mapping[str, Tensor],
        solver: AssignmentSolver,
        *,
        pairs: PairProducts | None = None,
    ) -> None:
        self._level = level
        self._layout = level.layout
        self._indices = indices
        self._solver = solver
        self._inner = level.inner
        self._dtype = functools.reduce(torch.promote_types, (term.dtype for term in terms), torch.float32)
        self._coupled = [term for term in terms if len(self._nested(term)) > 1]
        alone = [term for term in terms if len(self._nested(term)) == 1]
        products = pairs or PairProducts(level.layout, self._dtype)
        self._alone = {
            child: products.of(child, [t for t in alone if child in t.groups], indices, top=level.top)
            for child in self._inner
        }
        self._determined = {child: self._share_alone(child, alone) for child in self._inner}

    @property
    def is_exact(self) -> bool:
        """Whether no nested groups are coupled."""
        return not self._coupled

    def solve(self, below: Mapping[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the values of all pairs of outer units, and the assignments of the nested groups.

        Args:
            below: Values that are added for pairs of units of a nested group, ``[*outer, n, n, m, m]``: those of the
                groups nested in it.

        Returns:
            ``[*outer, n, n]`` for n units of the group, and for every nested group with m units ``[*outer, n, n, m]``.
        """
        added = below or {}
        known = {child: alone + added[child] if child in added else alone for child, alone in self._alone.items()}
        choices: dict[str, Tensor] = {}
        for child in sorted(self._inner, key=self._determined.__getitem__, reverse=True):
            choices[child] = self._solver.solve(self._similarity(child, choices, known)).index
        values = self._values(choices, known)
        for _ in range(_MAX_ALTERNATIONS if self._coupled else 0):
            proposed = dict(choices)
            for child in self._inner:
                proposed[child] = self._solver.solve(self._similarity(child, proposed, known)).index
            new = self._values(proposed, known)
            better = new > values + _RELATIVE_TOLERANCE * values.abs()
            if not better.any():
                break
            values = torch.where(better, new, values)
            choices = {child: torch.where(better[..., None], proposed[child], choices[child]) for child in choices}
        return values, choices

    def current(self) -> Tensor:
        """Return the values of the current pairs of units with the current assignments within, if these are exact.

        Returns:
            ``[*outer, n]``.
        """
        index = self._level.index(self._indices)
        chosen = {child: self._indices[child].reshape(*index.shape, -1) for child in self._inner}
        parts = [picked(at_assignment(self._alone[child], index), chosen[child]).sum(-1) for child in self._inner]
        return sum(parts[1:], parts[0])

    def _nested(self, term: Term) -> list[int]:
        """Return the positions of nested groups among the atoms of a term."""
        return [position for position, group in term.grouped if group in self._inner]

    def _share_alone(self, child: str, alone: Sequence[Term]) -> float:
        """Return the share of a nested group's similarity that depends on no other nested group, by norms of terms."""
        known = sum(term.norm for term in alone if child in term.groups)
        total = known + sum(term.norm for term in self._coupled if child in term.groups)
        return known / total if total > 0 else 0.0

    def _similarity(self, child: str, choices: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Tensor:
        """Return the similarity of a nested group ``[*outer, n, n, m, m]``, by the terms with only known others."""
        parts = [known[child]]
        for term in self._coupled:
            nested = self._nested(term)
            for position in term.positions(child):
                others = {str(term.atoms[other].group) for other in nested if other != position}
                if others <= choices.keys():
                    parts.append(self._products(term, choices, compared=position))
        return sum(parts[1:], parts[0])

    def _values(self, choices: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> Tensor:
        """Return the sum over all terms for each pair ``[*outer, n, n]``."""
        parts = [picked(known[child], choices[child]).sum(-1) for child in self._inner]
        parts += [self._products(term, choices, compared=None)[..., 0, 0] for term in self._coupled]
        return sum(parts[1:], parts[0])

    def _products(self, term: Term, choices: Mapping[str, Tensor], *, compared: int | None) -> Tensor:
        """Return the inner products of all pairs of outer units, with the candidate permuted within as chosen.

        Units at the position ``compared`` are compared, all pairs: ``[*outer, n, n, m, m]``; without it, m = 1.
        """
        nested = self._nested(term)
        whole = (*self._level.positions(term), *nested)
        groups = {
            nested.index(position): str(term.atoms[position].group) for position in nested if position != compared
        }
        chosen = {dim: choices[group].reshape(-1, *choices[group].shape[-3:]) for dim, group in groups.items()}
        total: Tensor | float = 0.0
        for reference, candidate, done in pieces(term, self._indices, whole=whole, nested=self._layout.nesting):
            permuted = act_on_cell(self._layout, self._indices, candidate, term.atoms, skip=(*whole, *done))
            left = self._ordered(term, reference)
            right = self._ordered(term, permuted)
            dim = None if compared is None else nested.index(compared)
            found = torch.cat([*_products_of_pairs(left, right, chosen, dim)])
            total = found.reshape(*self._level.outer, self._level.size, *found.shape[1:]) + total
        return torch.as_tensor(total)

    def _ordered(self, term: Term, cell: Tensor) -> Tensor:
        """Return a cell as ``[batch, n, *m, rest]``: outer groups, the group, the nested groups, everything else."""
        batch = self._level.batch(term)
        nested = self._nested(term)
        front = [1 + position for position in (*batch, *self._level.positions(term), *nested)]
        ordered = cell.permute(*front, *(dim for dim in range(cell.dim()) if dim not in front))
        widths = [term.atoms[position].size for position in nested]
        return ordered.reshape(ordered.shape[: len(batch)].numel(), self._level.size, *widths, -1)


def _products_of_pairs(
    left: Tensor, right: Tensor, chosen: Mapping[int, Tensor], compared: int | None
) -> Iterator[Tensor]:
    """Yield the inner products ``[rows, n, m, m]`` of some reference units with all candidate units.

    ``left`` and ``right`` are ``[batch, n, *m, rest]``, and ``chosen`` has the permutation ``[batch, n, n, m]`` of the
    candidate along at least one of the nested dimensions, numbered from zero.
    """
    size = right.shape[1]
    step = max(1, MAX_ENTRIES // max(1, right[0].numel()))
    for number, units in enumerate(right):
        parts = units.reshape(-1, units.shape[-1])
        for start in range(0, size, step):
            rows = left[number, start : start + step]
            front = rows.unsqueeze(1) if compared is None else rows.movedim(1 + compared, 1)
            near = {dim: choice[number, start : start + step] for dim, choice in chosen.items()}
            order = _rows_of_pairs(units.shape[:-1], near, count=len(rows))
            order = order if compared is None else order.movedim(2 + compared, 2)
            # Gathered in the order of the product: a second copy needs about the time of the product.
            back = parts.index_select(0, order.flatten()).view(len(rows), size * front.shape[1], -1)
            products = front.flatten(2) @ back.mT
            yield products.reshape(len(rows), front.shape[1], size, front.shape[1]).transpose(1, 2)


def _rows_of_pairs(shape: Sequence[int], chosen: Mapping[int, Tensor], *, count: int) -> Tensor:
    """Return the rows of a flattened tensor ``[n, *m, rest]`` that the pairs gather, ``[count, n, *m]``."""
    size, *widths = shape
    device = next(iter(chosen.values())).device
    index = torch.arange(size, device=device).expand(count, size)
    for dim, width in enumerate(widths):
        along = chosen[dim] if dim in chosen else torch.arange(width, device=device).expand(count, size, width)
        index = index.unsqueeze(-1) * width + along.reshape(count, size, *[1] * dim, width)
    return index
