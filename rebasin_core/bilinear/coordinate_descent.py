"""The solver of sums of bilinear assignments: one group at a time, the others held fixed."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.assignment import Assignment, AssignmentSolver, default_solver
from rebasin_core.bilinear.bound import upper_bound
from rebasin_core.bilinear.similarity import SimilarityMatrices, reordered_within
from rebasin_core.bilinear.terms import Term, inner_products, joined, picked, terms_of, total_product
from rebasin_core.symmetry.action import act_on_cell

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.symmetry.layout import Layout

# A group is moved only if it gains more than rounding could pretend, relative to the similarities at hand.
_RELATIVE_GAIN = 1e-6


@final
class CoordinateDescent:
    r"""Maximises $\sum_c \langle \phi_c, g \cdot \psi_c \rangle$ over group elements $g$, from the identity on.

    A group is solved exactly with the others held fixed: a linear assignment, or one for each unit of the groups
    around it. A group and those directly within it (heads and their widths) are solved together, by an assignment for
    every pair of heads. A group is moved only if the objective truly grows, also where it stands twice in one tensor
    and the assignment is only a linearisation. Groups whose neighbours did not move since they were last solved are
    skipped, what depends on no other group is computed once, and of the rest only what moved units change. Assignments
    begin from where the last one of their group ended.

    Args:
        layout: The groups.
        reference: Channels ``[C, *s]`` for every parameter.
        candidate: The same for the network that is moved.
        initial: An index for every group to begin with; the identity if not given.
        solver: Solves the assignments; the fastest exact one if not given.

    Complexity:
        For each group solved, at most one matrix product for each axis it stands on, and one assignment. Two matrices
        for every group are kept.
    """

    def __init__(
        self,
        layout: Layout,
        reference: Channels,
        candidate: Channels,
        *,
        initial: Mapping[str, Tensor] | None = None,
        solver: AssignmentSolver | None = None,
    ) -> None:
        self._layout, self._solver = layout, solver or default_solver()
        terms = [
            term for name, tensor in reference.items() for term in terms_of(layout.axes[name], tensor, candidate[name])
        ]
        self._terms = joined([term for term in terms if term.groups])
        self._constant = sum(total_product(term.reference, term.candidate) for term in terms if not term.groups)
        device = self._terms[0].reference.device if self._terms else torch.device("cpu")
        self._identity = {
            name: torch.arange(group.size, device=device).expand(layout.index_shape(name)).clone()
            for name, group in layout.groups.items()
        }
        self._touching = {name: [term for term in self._terms if name in term.groups] for name in layout.groups}
        self._similarities = SimilarityMatrices(layout, self._touching)
        self.start_at(initial)
        self._objective: tuple[Mapping[str, Tensor], float] | None = None  # at which indices, and its value

    def objective(self) -> float:
        """Return the objective at the present permutation.

        It is added up once, over short pieces in the precision of the tensors and over their sums in float64. From
        there on it grows by what is ``gained``, up to the rounding of the similarities.
        """
        if self._objective is None or self._objective[0] is not self.indices:
            value = self._value(self._terms)
            self._objective = (self.indices, self._constant + value)
        return self._objective[1]

    def start_at(self, initial: Mapping[str, Tensor] | None) -> None:
        """Begin, or begin anew; what depends on no permutation is not computed again.

        Args:
            initial: An index for every group; None for the identity.
        """
        self.indices: dict[str, Tensor] = self._identity
        if initial is not None:
            self.indices = {name: initial[name].to(index.device).clone() for name, index in self._identity.items()}
        self._similarities.forget()
        self._last: dict[str, Assignment] = {}
        self._stale = dict.fromkeys(self._layout.groups, True)
        self.seconds = {"similarity": 0.0, "assignment": 0.0}
        self.gained = 0.0

    def upper_bound(self) -> float:
        """Return what no permutation can exceed, as `upper_bound` knows it."""
        return self._constant + upper_bound(self._touching, self._similarities, self._solver, self.indices, self._last)

    def initialize_greedily(self) -> bool:
        """Solve groups once, each by what is known already, from where most is known on.

        While neighbours have not been matched, what a unit gains from them says nothing: from the identity, most of the
        first sweep is spent on noise, and ends in worse optima. Here a group is solved by those terms alone whose
        other groups have had their turn, as input and output weights next to data have at once.

        Returns:
            Whether the objective is higher than before; if not, nothing has changed.
        """
        waiting = [name for name, group in self._layout.groups.items() if group.within is None]
        waiting = [n for n in waiting if not any(n in self._layout.ancestors(other) for other in self._layout.groups)]
        before, old, settled = self.objective(), self.indices, set[str]()
        shares = {name: self._similarities.share_known(name, settled) for name in waiting}
        # Every term is counted by the last of its groups that is settled, in what that group gains.
        value, uncounted = self._constant, dict.fromkeys(self._terms)
        while shares:
            name = max(shares, key=shares.__getitem__)
            known = self._similarities.known_terms(name, settled)
            if shares[name] > 0:
                start = perf_counter()
                gains = self._similarities.known(name, self.indices, known)
                mid = perf_counter()
                found = self._solver.solve(gains)
                self.indices = {**self.indices, name: found.index}
                value += picked(gains, self.indices[name]).double().sum().item()
                if len(known) == len(self._touching[name]):  # solved, until a neighbour moves
                    self._last[name], self._stale[name] = found, False
                for term in known:
                    del uncounted[term]
                self.seconds["similarity"] += mid - start
                self.seconds["assignment"] += perf_counter() - mid
            settled.add(name)
            del shares[name]
            for other in {g for term in self._touching[name] for g in term.groups if g in shares}:
                shares[other] = self._similarities.share_known(other, settled)
        value += self._value([*uncounted])
        if value - before <= _RELATIVE_GAIN * abs(before):
            self.indices = old
            self._last.clear()
            self._stale = dict.fromkeys(self._layout.groups, True)
            return False
        self._objective = (self.indices, value)
        self.gained += value - before
        return True

    def sweep(self, generator: torch.Generator) -> bool:
        """Solve every group once, in random order.

        Args:
            generator: The source of the order.

        Returns:
            Whether any group moved.
        """
        names = list(self._layout.groups)
        order = torch.randperm(len(names), generator=generator, device=generator.device).tolist()
        moved = False
        for name in (names[i] for i in order):
            if self._stale[name] and self._solve(name):
                moved = True
        return moved

    def sweeps(self, generator: torch.Generator, most: int) -> Iterator[bool]:
        """Sweep until nothing moves.

        Args:
            generator: The source of the orders.
            most: The most sweeps.

        Yields:
            After each sweep, whether any group moved; the last is False if nothing can be improved.
        """
        for _ in range(most):
            moved = self.sweep(generator)
            yield moved
            if not moved:
                break

    def run(self, generator: torch.Generator, most: int) -> None:
        """Sweep until nothing moves.

        Args:
            generator: The source of the orders.
            most: The most sweeps.
        """
        for _ in self.sweeps(generator, most):
            pass

    def similarity(self, name: str) -> Tensor:
        """Return what each unit of the reference gains from each unit of the candidate, at the present permutation.

        Args:
            name: A group.

        Returns:
            ``[*outer, n, n]`` in float64.
        """
        return self._similarities.of(name, self.indices).to(torch.float64, copy=True)

    def _solve(self, name: str) -> bool:
        """Move one group to its best place; return whether it moved."""
        self._stale[name] = False
        terms = self._touching[name]
        if self._layout.index_shape(name)[-1] == 1 or not terms:
            return False
        start = perf_counter()
        inner = self._solvable_within(name)
        if inner is None:
            similarity = self._similarities.of(name, self.indices)
        else:
            outside = [term for term in terms if inner.isdisjoint(term.groups)]
            similarity = self._similarities.recomputed(name, self.indices, outside)
        within = {child: self._best_within(name, child) for child in inner or ()}
        similarity = sum((value for value, _ in within.values()), similarity)
        mid = perf_counter()
        best = self._last[name] = self._solver.solve(similarity, start=self._last.get(name))
        self.seconds["similarity"] += mid - start
        self.seconds["assignment"] += perf_counter() - mid
        # Where heads are solved with their widths, the present inner order need not be the best.
        gain = None if within else self._gain(name, similarity, best.index)
        if gain == 0:
            return False
        return self._accept(name, best.index, {child: choice for child, (_, choice) in within.items()}, gain)

    def _gain(self, name: str, similarity: Tensor, best: Tensor) -> float:
        """Return by how much an assignment beats the present one; 0 if not by more than rounding."""
        present = picked(similarity, self.indices[name]).double()
        gain = (picked(similarity, best).double().sum() - present.sum()).item()
        return gain if gain > _RELATIVE_GAIN * present.abs().sum().item() else 0.0

    def _accept(self, name: str, index: Tensor, within: dict[str, Tensor], gain: float | None) -> bool:
        """Take a new index; where its gain is not sure, only if the objective grows."""
        terms = self._touching[name]
        exact = gain is not None and all(term.groups.count(name) == 1 for term in terms)
        before, old, value = 0.0 if exact else self._value(terms), self.indices, self._objective
        # New unit h holds the old unit index[h], which stood at place where[index[h]] before.
        where = old[name].argsort(-1).gather(-1, index)
        self.indices = {**reordered_within(self._layout, self.indices, name, where), name: index}
        for child, choice in within.items():
            spread = index[..., None, None].expand(*index.shape, 1, choice.shape[-1])
            self.indices[child] = choice.gather(-2, spread).squeeze(-2)
        if gain is None or not exact:
            gain = self._value(terms) - before
            if gain <= _RELATIVE_GAIN * abs(before):
                self.indices = old
                return False
        self.gained += gain
        if value is not None and value[0] is old:
            self._objective = (self.indices, value[1] + gain)
        for term in terms:
            for other in term.groups:
                if other != name or term.groups.count(name) > 1:
                    self._stale[other] = True
        return True

    def _solvable_within(self, name: str) -> set[str] | None:
        """Return the groups directly within a group if both levels can be solved at once, else None.

        That is so when nothing lies deeper, and no tensor holds two of them or any of them twice.
        """
        inner = {other for other in self._layout.groups if name in self._layout.ancestors(other)}
        if not inner or any(self._layout.groups[other].within != name for other in inner):
            return None
        for term in self._touching[name]:
            held = [group for group in term.groups if group in inner]
            if len(held) > 1 or (held and term.groups.count(name) != 1):
                return None
        return inner

    def _best_within(self, name: str, child: str) -> tuple[Tensor, Tensor]:
        """Return for each pair of units of a group the best assignment of the group within: value and index.

        Shapes are ``[*outer, n, n]`` and ``[*outer, n, n, m]`` for a group of n units with m units within each.
        """
        *outer, size, width = self._layout.index_shape(child)
        total: Tensor | float = 0.0
        for term in self._touching[child]:
            places = [term.places(name)[0], term.places(child)[0]]
            front = [term.places(group)[0] for group in self._layout.ancestors(name)]
            moved = act_on_cell(self._layout, self.indices, term.candidate, term.atoms, skip=places)
            products = inner_products(term.reference, moved, batch=front, compared=places)
            total = products.reshape(*outer, size, width, size, width).transpose(-3, -2) + total
        similarity = torch.as_tensor(total)
        choice = self._solver.solve(similarity).index
        return picked(similarity, choice).sum(-1), choice

    def _value(self, terms: Sequence[Term]) -> float:
        if self.indices is self._identity:
            return sum(total_product(term.reference, term.candidate) for term in terms)
        return sum(
            total_product(term.reference, act_on_cell(self._layout, self.indices, term.candidate, term.atoms))
            for term in terms
        )
