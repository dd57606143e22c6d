"""Block coordinate ascent for sums of bilinear assignment problems: one group at a time, all others fixed."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.assignment import Assignment, AssignmentSolver, default_solver
from rebasin_core.bilinear.bound import upper_bound
from rebasin_core.bilinear.descent_state import DescentState
from rebasin_core.bilinear.levels import innermost, is_coupled, nested_jointly
from rebasin_core.bilinear.nested_levels import NestedLevels, chosen_within
from rebasin_core.bilinear.pair_products import PairProducts
from rebasin_core.bilinear.pieces import pieces
from rebasin_core.bilinear.products import picked, total_product
from rebasin_core.bilinear.similarity import SimilarityMatrices, reordered_within
from rebasin_core.bilinear.stacked_cell import stacked_cells
from rebasin_core.bilinear.terms import Term, joined, terms_of
from rebasin_core.symmetry.action import act_on_cell
from rebasin_core.tensors.device import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.symmetry.layout import Layout

# A step is accepted only if its increase exceeds rounding, relative to the similarities involved.
_RELATIVE_TOLERANCE = 1e-6
# Number of sweeps after which coupled nested groups are fixed in steps of their outer group, until nothing changes.
# Joint steps recover the correspondence of the outer units in the first sweeps, and need up to 20 times the time.
_JOINT_SWEEPS = 2


def no_observer() -> None:
    """Ignore a step of a descent."""


@final
class CoordinateDescent:
    r"""Block coordinate ascent for $\max_g \sum_c \langle \phi_c, g \psi_c \rangle$ over permutations $g$.

    Each step optimizes one group exactly with all others fixed: one linear assignment problem, or one for each unit of
    the outer groups. A group and the groups nested in it (heads and the width inside them) are optimized jointly, by
    assignment problems for every pair of outer units (see `NestedLevels`): exactly, unless a tensor has axes of several
    groups nested in the same one; then at least as well as with their current permutations. Such joint steps are made
    in the first two sweeps, and again when no other step improves the objective. If a group acts twice on a tensor, the
    assignment is a linearization. A step is accepted only if the objective increases by more than rounding.

    Similarity matrices are updated incrementally, groups whose neighbors are unchanged are skipped, and assignments are
    warm-started.

    Args:
        layout: The groups.
        reference: Channels ``[C, *s]`` of every parameter of the reference.
        candidate: Channels of the candidate, of the same shapes.
        initial: The initial index of every group; the identity if None.
        solver: Solver of the assignment problems; the fastest exact one if None.
        memory: Maximum number of bytes for similarity matrices that are kept between steps; unlimited if None. Others
            are recomputed. The matrix of the current group is not included.
        device: Device of the computation, to which slices of the channels are copied; that of the channels if None.

    Attributes:
        indices: The current index of every group, ``new[i] = old[index[i]]``; replaced, never modified in place.
        total_increase: Increase of the objective since the start.
        seconds: Time in seconds spent on similarity matrices and on assignments.
        state: Progress of the initialization and of the current sweep, with which a descent can be continued.
        on_step: Called after each step, when `state` and the indices are consistent.

    Complexity:
        For each step at most one matrix product for each axis on which the group acts, and one assignment. Memory for
        two similarity matrices for each group and the products of all pairs of nested units, or as limited, and for
        some slices of the largest tensor. Tensors that are mapped from files are read when they are used.
    """

    def __init__(  # ruff: ignore[too-many-arguments] - the problem and its limits; four have defaults
        self,
        layout: Layout,
        reference: Channels,
        candidate: Channels,
        *,
        initial: Mapping[str, Tensor] | None = None,
        solver: AssignmentSolver | None = None,
        memory: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._layout = layout
        self._solver = solver or default_solver()
        terms = [
            term
            for name, own, other in stacked_cells(layout, reference, candidate)
            for term in terms_of(layout.axes[name], own, other, device=device)
        ]
        self._terms = joined([term for term in terms if term.groups])
        target = device or (self._terms[0].reference.device if self._terms else CPU)
        self._identity = {
            name: torch.arange(group.size, device=target).expand(layout.index_shape(name)).clone()
            for name, group in layout.groups.items()
        }
        self._terms_of_group = {name: [term for term in self._terms if name in term.groups] for name in layout.groups}
        self._inner = {name: nested_jointly(layout, name, self._terms_of_group[name]) for name in layout.groups}
        self._coupled = [
            n for n, inner in self._inner.items() if inner and is_coupled(layout, n, self._terms_of_group[n])
        ]
        # Groups that are always assigned with a group around them, and need no steps of their own.
        self._covered = {child for name, inner in self._inner.items() if self._is_step_exact(name) for child in inner}
        self._similarities = SimilarityMatrices(layout, self._terms_of_group, memory=memory)
        self._pairs = PairProducts(layout, self._similarities.dtype, self._similarities.remembered)
        self.start_at(initial)
        self._constant = self._value([term for term in terms if not term.groups])
        # The last computed objective, with the indices it belongs to.
        self._objective: tuple[Mapping[str, Tensor], float] | None = None
        self._at_identity: float | None = None
        self.on_step: Callable[[], None] = no_observer

    def objective(self) -> float:
        """Return the objective at the current indices.

        It is computed once, in pieces: each is summed in the precision of the tensors, and the pieces in float64.
        Afterwards the increases of the steps are added, which have the precision of the similarity matrices.
        """
        if self._objective is None or self._objective[0] is not self.indices:
            value = self._value(self._terms)
            self._objective = (self.indices, self._constant + value)
        return self._objective[1]

    def start_at(self, initial: Mapping[str, Tensor] | None) -> None:
        """Start, or restart, at given indices. Parts of similarity matrices that depend on no index are reused.

        Args:
            initial: The index of every group; the identity if None.
        """
        self.indices: dict[str, Tensor] = self._identity
        if initial is not None:
            self.indices = {name: initial[name].to(index.device).clone() for name, index in self._identity.items()}
        self._similarities.forget()
        self._pairs.forget()
        self._last: dict[str, Assignment] = {}
        self._stale = dict.fromkeys(self._layout.groups, True)
        self.seconds = {"similarity": 0.0, "assignment": 0.0}
        self.total_increase = 0.0
        self.state = DescentState()
        self._is_continued = False

    def continue_from(self, state: DescentState, indices: Mapping[str, Tensor]) -> None:
        """Start at the state of an earlier descent of the same problem.

        `initialize_greedily` and `sweeps` then skip the steps of that descent, and reach its result up to rounding.

        Args:
            state: The state.
            indices: The index of every group at that state.
        """
        self.start_at(indices)
        self.state = state
        self._is_continued = True

    def upper_bound(self) -> float:
        """Return an upper bound of the objective over all permutations, see `upper_bound`."""
        bound = upper_bound(self._terms_of_group, self._similarities, self._solver, self.indices, self._last)
        return self._constant + bound

    def initialize_greedily(self) -> bool:
        """Match every group once, each by the terms whose other groups are already matched.

        The next group is always the one with the largest share of its similarity in such terms. At first these are
        biases and weights next to inputs and outputs. Unmatched neighbors contribute only noise to a similarity matrix,
        so a first sweep from the identity leads to worse local optima. Nested groups and the groups around them are not
        permuted. The descent must be at the identity, or continue an initialization.

        Returns:
            Whether the objective is larger than at the identity; if not, the descent is at the identity.
        """
        before = self._objective_at_identity()
        is_continued = bool(self.state.matched)
        # Each term is counted when the last of its groups is matched, by the similarity of that group.
        value = self._constant
        uncounted = dict.fromkeys(self._terms)
        # Tried: nested groups matched here, too. On trained transformers the objective is higher or lower by up to 9 %.
        free = [name for name in self._layout.groups if name not in self._layout.nesting]
        matched = self.state.matched
        shares = {name: self._similarities.share_known(name, matched) for name in free if name not in matched}
        while shares:
            name = max(shares, key=shares.__getitem__)
            if shares.pop(name) > 0:
                known = self._similarities.known_terms(name, matched)
                value += self._match_by(name, known)
                for term in known:
                    uncounted.pop(term, None)
            matched.append(name)
            for other in {group for term in self._terms_of_group[name] for group in term.groups if group in shares}:
                shares[other] = self._similarities.share_known(other, matched)
            self.on_step()
        value = self._constant + self._value(self._terms) if is_continued else value + self._value([*uncounted])
        self.state.is_initialized = True
        if value - before <= _RELATIVE_TOLERANCE * abs(before):
            self.indices = self._identity
            self._last.clear()
            self._stale = dict.fromkeys(self._layout.groups, True)
            return False
        self._objective = (self.indices, value)
        self.total_increase += value - before
        return True

    def _objective_at_identity(self) -> float:
        if self._at_identity is None:
            at_identity = self.indices is self._identity
            self._at_identity = self.objective() if at_identity else self._constant + self._value(self._terms, {})
        return self._at_identity

    def sweep(self, generator: torch.Generator) -> bool:
        """Optimize every group once, in random order.

        Args:
            generator: Source of the order.

        Returns:
            Whether any index changed, or joint steps follow in the next sweep.
        """
        if self._is_continued:
            self.state.restore(generator)
        self._is_continued = False
        self.state.remember(generator)
        names = list(self._layout.groups)
        order = torch.randperm(len(names), generator=generator, device=generator.device).tolist()
        for name in [names[number] for number in order][self.state.position :]:
            if self._stale[name] and self._step(name):
                self.state.changed = True
            self.state.position += 1
            self.on_step()
        changed = self._continues()
        self.state.remember(generator)
        self.state.position = 0
        self.state.changed = False
        self.state.num_sweeps += 1
        return changed

    def _continues(self) -> bool:
        """Return whether to sweep again, and choose whether with joint steps of coupled nested groups."""
        changed = self.state.changed
        if changed:
            self.state.is_joint = self.state.num_sweeps + 1 < _JOINT_SWEEPS
        elif self._coupled and not self.state.is_joint:
            self.state.is_joint = True
            self._stale.update(dict.fromkeys(self._coupled, True))
            return True
        return changed

    def sweeps(self, generator: torch.Generator, max_sweeps: int) -> Iterator[bool]:
        """Sweep until no index changes.

        Args:
            generator: Source of the orders.
            max_sweeps: Maximum number of sweeps, including those of the descent that is continued.

        Yields:
            After each sweep, the value of `sweep`; the last is False at a local optimum.
        """
        done = self.state.num_sweeps if self._is_continued else 0
        for _ in range(done, max_sweeps):
            changed = self.sweep(generator)
            yield changed
            if not changed:
                break

    def run(self, generator: torch.Generator, max_sweeps: int) -> None:
        """Sweep until no index changes.

        Args:
            generator: Source of the orders.
            max_sweeps: Maximum number of sweeps.
        """
        for _ in self.sweeps(generator, max_sweeps):
            pass

    def similarity(self, name: str) -> Tensor:
        """Return the similarity matrix of a group at the current indices.

        Args:
            name: Name of the group.

        Returns:
            ``[*outer, n, n]`` in float64: rows are reference units, columns candidate units.
        """
        return self._similarities.of(name, self.indices).to(torch.float64, copy=True)

    def _match_by(self, name: str, terms: list[Term]) -> float:
        """Match a group by some of its terms; return their sum at the assignment."""
        start = perf_counter()
        similarity = self._similarities.known(name, self.indices, terms)
        mid = perf_counter()
        found = self._solver.solve(similarity)
        self.indices = {**self.indices, name: found.index}
        value = picked(similarity, found.index).double().sum().item()
        if len(terms) == len(self._terms_of_group[name]):  # optimal until a neighbor changes
            self._last[name] = found
            self._stale[name] = False
        self.seconds["similarity"] += mid - start
        self.seconds["assignment"] += perf_counter() - mid
        return value

    def _step(self, name: str) -> bool:
        """Optimize one group; return whether its index changed."""
        self._stale[name] = False
        terms = self._terms_of_group[name]
        if self._layout.index_shape(name)[-1] == 1 or not terms or name in self._covered:
            return False
        start = perf_counter()
        within: dict[str, Tensor] = {}
        current: Tensor | None = None
        if self._inner[name] and (self.state.is_joint or name not in self._coupled):
            similarity, within, current = self._at_all_levels(name, terms)
        else:
            similarity = self._similarities.of(name, self.indices)
        mid = perf_counter()
        best = self._last[name] = self._solver.solve(similarity, start=self._last.get(name))
        self.seconds["similarity"] += mid - start
        self.seconds["assignment"] += perf_counter() - mid
        # With coupled nested groups, the increase over the current inner indices is not known from the similarity.
        if not within:
            current = picked(similarity, self.indices[name])
        increase = None if current is None else _increase(picked(similarity, best.index), current)
        if increase == 0:
            return False
        return self._accept(name, best.index, within, increase)

    def _accept(self, name: str, index: Tensor, within: dict[str, Tensor], increase: float | None) -> bool:
        """Accept a new index; if its increase is not exact, only if the objective increases."""
        terms = self._terms_of_group[name]
        exact = increase is not None and all(term.groups.count(name) == 1 for term in terms)
        before = 0.0 if exact else self._value(terms)
        old = self.indices
        objective = self._objective
        # New unit h is old unit index[h], which had the position order[h] until now.
        order = old[name].argsort(-1).gather(-1, index)
        reordered = reordered_within(self._layout, self.indices, name, order)
        self.indices = {**reordered, name: index, **chosen_within(self._layout, within, index)}
        if increase is None or not exact:
            increase = self._value(terms) - before
            if increase <= _RELATIVE_TOLERANCE * abs(before):
                self.indices = old
                return False
        self.total_increase += increase
        if objective is not None and objective[0] is old:
            self._objective = (self.indices, objective[1] + increase)
        for term in terms:
            for other in term.groups:
                if other != name or term.groups.count(name) > 1:
                    self._stale[other] = True
        return True

    def _is_step_exact(self, name: str) -> bool:
        """Return whether steps of a group find the best permutation of it and of all groups nested in it."""
        is_free = self._layout.groups[name].size > 1 and name not in self._coupled
        return is_free and all(term.groups.count(name) == 1 for term in self._terms_of_group[name])

    def _at_all_levels(self, name: str, terms: Sequence[Term]) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """Return the similarity of a group, for each pair of units with an assignment of its nested groups.

        The shapes are ``[*outer, n, n]``, and ``[*outer, n, n, m]`` for a nested group with m units within each of n.
        The last result is the similarity of the current pairs with the current assignments within, ``[*outer, n]``; it
        is not known if nested groups are coupled.
        """
        inside = [term for term in terms if innermost(self._layout, name, term)]
        outside = [term for term in terms if term not in inside]
        blocks = NestedLevels(self._layout, name, inside, self.indices, self._solver, pairs=self._pairs)
        values, within = blocks.solve()
        of_outside = self._similarities.recomputed(name, self.indices, outside)
        if blocks.is_exact:
            return values + of_outside, within, blocks.current() + picked(of_outside, self.indices[name])
        # The current assignment within the candidate's units is another choice, so no step is worse than with it.
        current = self._similarities.recomputed(name, self.indices, inside)
        order = self.indices[name].argsort(-1)
        kept = reordered_within(self._layout, self.indices, name, order)
        better = (current > values).unsqueeze(-1)
        values = torch.maximum(values, current)
        for child, choice in within.items():
            within[child] = torch.where(better, kept[child].reshape(*order.shape, -1).unsqueeze(-3), choice)
        return values + of_outside, within, None

    def _value(self, terms: Sequence[Term], indices: Mapping[str, Tensor] | None = None) -> float:
        """Return the sum of some terms at the current indices, or at the identity if ``indices`` is empty."""
        indices = self.indices if indices is None else indices
        if not indices or indices is self._identity:
            return sum(total_product(left, right) for term in terms for left, right, _ in pieces(term, {}))
        value = 0.0
        for term in terms:
            for reference, candidate, done in pieces(term, indices, nested=self._layout.nesting):
                value += total_product(reference, act_on_cell(self._layout, indices, candidate, term.atoms, skip=done))
        return value


def _increase(best: Tensor, current: Tensor) -> float:
    """Return by how much the values of an assignment exceed the current ones; 0 if not by more than rounding."""
    increase = (best.double().sum() - current.double().sum()).item()
    return increase if increase > _RELATIVE_TOLERANCE * current.double().abs().sum().item() else 0.0
