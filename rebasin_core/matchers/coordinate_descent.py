"""The solver of sums of bilinear assignments: one group at a time, the others held fixed."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.matchers.term import Term, inner_products, picked, terms_of, total_product
from rebasin_core.symmetry.action import act_on_cell
from rebasin_core.tensors.assignment import solve_assignment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.matchers.channel import Channels
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
    skipped, and what depends on no other group is computed once.

    Args:
        layout: The groups.
        reference: Channels ``[C, *s]`` for every parameter.
        candidate: The same for the network that is moved.
        initial: An index for every group to begin with; the identity if not given.

    Complexity:
        For each group solved, one matrix product for each axis it stands on, and $O(n^3)$ for the assignment.
    """

    def __init__(
        self,
        layout: Layout,
        reference: Channels,
        candidate: Channels,
        *,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._layout = layout
        terms = [
            term for name, tensor in reference.items() for term in terms_of(layout.axes[name], tensor, candidate[name])
        ]
        self._terms = [term for term in terms if term.groups]
        self._constant = sum(total_product(term.reference, term.candidate) for term in terms if not term.groups)
        device = self._terms[0].reference.device if self._terms else torch.device("cpu")
        self.indices: dict[str, Tensor] = {
            name: torch.arange(group.size, device=device).expand(layout.index_shape(name)).clone()
            if initial is None
            else initial[name].to(device).clone()
            for name, group in layout.groups.items()
        }
        self.seconds = {"similarity": 0.0, "assignment": 0.0}
        self._touching = {name: [term for term in self._terms if name in term.groups] for name in layout.groups}
        self._constant_grams: dict[tuple[str, int], Tensor] = {}
        self._stale = dict.fromkeys(layout.groups, True)

    def objective(self) -> float:
        """Return the objective at the present permutation, accumulated in float64."""
        return self._constant + self._value(self._terms)

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
        return self._similarity(name, self._touching[name])

    def _solve(self, name: str) -> bool:
        """Move one group to its best place; return whether it moved."""
        self._stale[name] = False
        terms = self._touching[name]
        if self._layout.index_shape(name)[-1] == 1 or not terms:
            return False
        start = perf_counter()
        inner = self._solvable_within(name)
        similarity = self._similarity(
            name, terms if inner is None else [t for t in terms if inner.isdisjoint(t.groups)]
        )
        within = {child: self._best_within(name, child) for child in inner or ()}
        for value, _ in within.values():
            similarity += value
        mid = perf_counter()
        best = solve_assignment(similarity)
        self.seconds["similarity"] += mid - start
        self.seconds["assignment"] += perf_counter() - mid
        if not self._gains(name, similarity, best, joint=bool(within)):
            return False
        return self._accept(name, best, {child: choice for child, (_, choice) in within.items()})

    def _gains(self, name: str, similarity: Tensor, best: Tensor, *, joint: bool) -> bool:
        """Return whether an assignment beats the present one by more than rounding."""
        if joint:  # the present inner order need not be the best one, so only the objective itself can tell
            return True
        present = self.indices[name]
        gain = (picked(similarity, best) - picked(similarity, present)).sum().item()
        return bool(gain > _RELATIVE_GAIN * picked(similarity.abs(), present).sum().item())

    def _accept(self, name: str, index: Tensor, within: dict[str, Tensor]) -> bool:
        """Take a new index; where it is not sure to be better, only if the objective grows."""
        terms = self._touching[name]
        exact = not within and all(term.groups.count(name) == 1 for term in terms)
        before, old = 0.0 if exact else self._value(terms), dict(self.indices)
        # New unit h holds the old unit index[h], which stood at place where[index[h]] before.
        where = old[name].argsort(-1).gather(-1, index)
        self.indices = {**self._reordered_within(name, where), name: index}
        for child, choice in within.items():
            spread = index[..., None, None].expand(*index.shape, 1, choice.shape[-1])
            self.indices[child] = choice.gather(-2, spread).squeeze(-2)
        if not exact and self._value(terms) <= before + _RELATIVE_GAIN * abs(before):
            self.indices = old
            return False
        for term in terms:
            for other in term.groups:
                if other != name or term.groups.count(name) > 1:
                    self._stale[other] = True
        return True

    def _similarity(self, name: str, terms: Sequence[Term]) -> Tensor:
        """Return ``[*outer, n, n]``: what each unit of the reference gains from each unit of the candidate."""
        shape = self._layout.index_shape(name)
        total = torch.zeros((*shape, shape[-1]), dtype=torch.float64, device=self.indices[name].device)
        # Seen from a unit of the candidate, the groups within it go with it.
        indices = self._reordered_within(name, self.indices[name].argsort(-1))
        for number, term in enumerate(terms):
            constant = term.groups == (name,)
            if constant and (name, number) in self._constant_grams:
                total += self._constant_grams[name, number]
                continue
            gram = torch.zeros_like(total)
            for place in term.places(name):
                moved = act_on_cell(self._layout, indices, term.candidate, term.atoms, skip=(place,))
                front = [term.places(outer)[0] for outer in self._layout.ancestors(name)]
                gram += inner_products(term.reference, moved, batch=front, compared=[place])
            if constant:
                self._constant_grams[name, number] = gram
            total += gram
        return total

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
        total = torch.zeros((*outer, size, size, width, width), dtype=torch.float64, device=self.indices[name].device)
        for term in self._touching[child]:
            places = [term.places(name)[0], term.places(child)[0]]
            front = [term.places(group)[0] for group in self._layout.ancestors(name)]
            moved = act_on_cell(self._layout, self.indices, term.candidate, term.atoms, skip=places)
            products = inner_products(term.reference, moved, batch=front, compared=places)
            total += products.reshape(*outer, size, width, size, width).transpose(-3, -2)
        choice = solve_assignment(total)
        return picked(total, choice).sum(-1), choice

    def _reordered_within(self, name: str, order: Tensor) -> dict[str, Tensor]:
        """Return the indices with the groups within a group reordered as its units are."""
        indices = dict(self.indices)
        for other in self._layout.groups:
            ancestors = self._layout.ancestors(other)
            if name in ancestors:
                depth = ancestors.index(name)
                shape = [*order.shape, *[1] * (indices[other].dim() - depth - 1)]
                indices[other] = torch.take_along_dim(indices[other], order.reshape(shape), dim=depth)
        return indices

    def _value(self, terms: Sequence[Term]) -> float:
        return sum(
            total_product(term.reference, act_on_cell(self._layout, self.indices, term.candidate, term.atoms))
            for term in terms
        )
