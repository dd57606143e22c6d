"""Frank-Wolfe ascent of a sum of bilinear assignment problems over doubly stochastic matrices."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, final

import numpy as np
import torch

from rebasin_core.bilinear.products import Workspace, add_inner_products, inner_products, picked, total_product
from rebasin_core.bilinear.stacked_cell import whole
from rebasin_core.symmetry.action import act_softly
from rebasin_core.symmetry.axis import Atom

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.assignment import Assignment, AssignmentSolver
    from rebasin_core.bilinear.terms import Term
    from rebasin_core.symmetry.layout import Layout

# Computed roots of a polynomial count as real if their imaginary part is below this.
_REAL = 1e-9
# Coefficients of a polynomial count as zero if they are smaller than this, relative to the largest.
_ZERO = 1e-12
# Number of matrices that act on a bilinear term.
_BILINEAR = 2
# Number of steps after which gradients are recomputed: rounding accumulates.
_RENEWED = 25


@final
class Relaxation:
    r"""The state of Frank-Wolfe: one doubly stochastic matrix for every group that is not nested.

    A term on which at most two matrices act is linear in each. Its gradient at $(1 - a) X + a V$ is therefore the same
    combination of those at $X$ and at the vertex $V$, which consists of permutations: a step needs one product of
    gathered weights per term and matrix. The objective along the segment is a quadratic function, known from its value
    and slope at $X$ and its value at $V$. For terms with more matrices it is a polynomial that is fitted to values.

    Args:
        layout: The groups.
        terms: The terms of the objective.
        groups: Names of the groups to optimize, none of them nested; their matrices act on the terms.
        solver: Solver of the assignment problems.
        uniform: Whether to start at matrices with equal entries, instead of the identity.

    Attributes:
        matrices: The current matrix of every group.
        value: The current objective.
        seconds: Run time of the assignments.
    """

    def __init__(
        self,
        layout: Layout,
        terms: Sequence[Term],
        groups: Collection[str],
        solver: AssignmentSolver,
        *,
        uniform: bool = False,
    ) -> None:
        self._layout = layout
        self._solver = solver
        acting = [term for term in (_without_others(term, groups) for term in terms) if term.grouped]
        self._bilinear = [term for term in acting if len(term.grouped) <= _BILINEAR]
        self._others = [term for term in acting if len(term.grouped) > _BILINEAR]
        self._workspace = Workspace()
        self._assigned: dict[str, Assignment] = {}
        like = torch.zeros(())
        if acting:
            like = torch.empty((), dtype=acting[0].dtype, device=acting[0].reference.device)
        self.matrices = {name: _start(layout.groups[name].size, like, uniform=uniform) for name in groups}
        self.seconds = 0.0
        self._steps = 0
        self._gradients = self._current_gradients()
        self.value = self._soft_objective([*self._bilinear, *self._others], self.matrices)

    def step(self) -> float:
        """Take one step, to the best point of the segment to the vertex with the largest slope.

        Returns:
            The increase of the objective.
        """
        if not self._bilinear and not self._others:
            return 0.0
        gradients = self._full_gradients()
        vertex = {name: self._assign(name, gradient) for name, gradient in gradients.items()}
        at_vertex = self._vertex_gradients(vertex)
        size, value = self._line_search(vertex, at_vertex)
        increase = value - self.value
        self.value = value
        for name, matrix in self.matrices.items():
            _interpolate(matrix, vertex[name], size)
        self._steps += 1
        if self._steps % _RENEWED == 0:
            self._gradients = self._current_gradients()
        else:
            for name, gradient in self._gradients.items():
                gradient.lerp_(at_vertex[name], size)
        return increase

    def rounded(self) -> Mapping[str, Tensor]:
        """Return the permutations nearest to the matrices."""
        return {name: self._solver.solve(matrix).index for name, matrix in self.matrices.items()}

    def _assign(self, name: str, gradient: Tensor) -> Tensor:
        start = perf_counter()
        self._assigned[name] = self._solver.solve(gradient, start=self._assigned.get(name))
        self.seconds += perf_counter() - start
        return self._assigned[name].index

    def _line_search(self, vertex: Mapping[str, Tensor], at_vertex: Mapping[str, Tensor]) -> tuple[float, float]:
        """Return the best step size in [0, 1], and the objective there."""
        slope = sum(
            _value(gradient, vertex[name]) - total_product(gradient, self.matrices[name])
            for name, gradient in self._gradients.items()
        )
        last = self._vertex_objective(vertex, at_vertex)
        start = self.value - self._soft_objective(self._others, self.matrices)
        coefficients = [start, slope, last - start - slope]
        polynomial = np.polynomial.Polynomial(coefficients, domain=[0, 1], window=[0, 1])
        if self._others:
            polynomial += self._polynomial_of_others(vertex)
        # Leading coefficients that are zero up to rounding would make the roots inexact.
        derivative = polynomial.deriv().trim(_ZERO * float(np.abs(polynomial.coef).max()))
        roots = np.atleast_1d(derivative.roots()) if derivative.degree() else np.zeros(0)
        stationary = [root.real for root in roots if abs(root.imag) < _REAL and 0 < root.real < 1]
        size = float(max([0.0, 1.0, *stationary], key=lambda a: float(polynomial(a))))
        return size, float(polynomial(size))

    def _polynomial_of_others(self, vertex: Mapping[str, Tensor]) -> np.polynomial.Polynomial:
        """Return the objective of the terms with more than two matrices along the segment."""
        degree = max(len(term.grouped) for term in self._others)
        sizes = np.linspace(0.0, 1.0, degree + 1)
        values = []
        for size in sizes.tolist():
            matrices = {name: matrix.clone() for name, matrix in self.matrices.items()}
            for name, matrix in matrices.items():
                _interpolate(matrix, vertex[name], size)
            values.append(self._soft_objective(self._others, matrices))
        return np.polynomial.Polynomial.fit(sizes, values, degree, domain=[0, 1], window=[0, 1])

    def _vertex_objective(self, vertex: Mapping[str, Tensor], at_vertex: Mapping[str, Tensor]) -> float:
        """Return the objective of the bilinear terms at a vertex, from their gradients there."""
        # The sum over gradients counts a term with two matrices twice, one with one matrix once.
        total = sum(_value(gradient, vertex[name]) for name, gradient in at_vertex.items())
        once = sum(_value(gradient, vertex[name]) for name, gradient in self._linear.items())
        return (total + once) / 2

    def _vertex_gradients(self, vertex: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradients of the bilinear terms at a vertex."""
        found = {name: gradient.clone() for name, gradient in self._linear.items()}
        for term in self._bilinear:
            if len(term.grouped) == _BILINEAR:
                for position, group in term.grouped:
                    add_inner_products(found[group], term, position, vertex, self._workspace, empty=False)
        return found

    def _current_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of the bilinear terms at the current matrices; keep those that are constant."""
        self._linear = {name: torch.zeros_like(matrix) for name, matrix in self.matrices.items()}
        for term in self._bilinear:
            if len(term.grouped) == 1:
                ((position, group),) = term.grouped
                self._linear[group] += self._soft_gradient(term, position)
        found = {name: gradient.clone() for name, gradient in self._linear.items()}
        for term in self._bilinear:
            if len(term.grouped) == _BILINEAR:
                for position, group in term.grouped:
                    found[group] += self._soft_gradient(term, position)
        return found

    def _full_gradients(self) -> dict[str, Tensor]:
        """Return the gradients of all terms at the current matrices."""
        if not self._others:
            return self._gradients
        found = {name: gradient.clone() for name, gradient in self._gradients.items()}
        for term in self._others:
            for position, group in term.grouped:
                found[group] += self._soft_gradient(term, position)
        return found

    def _soft_gradient(self, term: Term, position: int) -> Tensor:
        reference, candidate = whole(term.reference).to(term.dtype), whole(term.candidate).to(term.dtype)
        permuted = act_softly(self._layout, self.matrices, candidate, term.atoms, skip=position)
        return inner_products(reference, permuted, batch=[], compared=[position])

    def _soft_objective(self, terms: Sequence[Term], matrices: Mapping[str, Tensor]) -> float:
        total = 0.0
        for term in terms:
            permuted = act_softly(self._layout, matrices, whole(term.candidate).to(term.dtype), term.atoms)
            total += total_product(whole(term.reference).to(term.dtype), permuted)
        return total


def _without_others(term: Term, groups: Collection[str]) -> Term:
    """Return a term with fixed atoms for other groups."""
    return replace(term, atoms=tuple(atom if atom.group in groups else Atom(atom.size) for atom in term.atoms))


def _start(size: int, like: Tensor, *, uniform: bool) -> Tensor:
    if uniform:
        return torch.full((size, size), 1 / size, dtype=like.dtype, device=like.device)
    return torch.eye(size, dtype=like.dtype, device=like.device)


def _interpolate(matrix: Tensor, index: Tensor, size: float) -> None:
    """Overwrite a matrix by an interpolation between it and a permutation."""
    matrix.mul_(1 - size)
    matrix[torch.arange(len(index), device=matrix.device), index.to(matrix.device)] += size


def _value(gradient: Tensor, index: Tensor) -> float:
    """Return the inner product with a permutation."""
    return float(picked(gradient, index.to(gradient.device)).double().sum())
