"""Couplings: soft correspondences between the units of two networks, of equal widths or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.coupling.nested_groups import linked_axes
from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.action import act_softly
from rebasin_core.symmetry.axis import Atom, Axis, Concat, Product, atoms_of
from rebasin_core.symmetry.cell import map_cells

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.layout import Layout

# Plans of equal mass on every unit give the same matrix in both directions, up to the tolerance of the solvers.
_SAME = 1e-3
# So many tensors are named in a message.
_MOST_NAMED = 8


@final
@dataclass(frozen=True, slots=True)
class Coupling:
    r"""How much of each unit of a candidate goes to each unit of a reference.

    With a plan $T$ of a group, whose rows (units of the reference) hold the masses $a$ and columns the masses $b$,
    the candidate becomes a network of the reference's shape: weights that compute units are averaged, and weights that
    read them are shared out,

    $$ w'_{i\cdot} = \sum_j \frac{T_{ij}}{a_i} w_{j\cdot}, \qquad
       w'_{\cdot i} = \sum_j w_{\cdot j} \frac{T_{ij}}{b_j}, $$

    so that a network that is the other one with units doubled (or doubled units made one) keeps its function. With
    permutations, both are the group's action. Units without mass become zero.

    Attributes:
        layout: Of the reference.
        candidate_layout: Of the candidate: the same groups, of other sizes perhaps.
        plans: ``[n_reference, n_candidate]`` for every group that is not within another one; ``[H, m, H', m']`` for one
            that is, as heads and their widths: how much of each width of each head goes where.
        costs: What the plans were made from, of the same shapes; of heads, the least that their widths cost.
        consuming: The axes ``(tensor, number)`` along which a tensor reads units.
    """

    layout: Layout
    candidate_layout: Layout
    plans: Mapping[str, Tensor]
    costs: Mapping[str, Tensor]
    consuming: Collection[tuple[str, int]]

    def apply(self, candidate: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the candidate's tensors in the reference's shapes.

        Args:
            candidate: Tensors by name, as the candidate's layout says; ``[*lead, *s]``.

        Returns:
            New tensors; integers as they are.

        Raises:
            InvalidInputError: If a tensor does not fit the candidate's layout.
        """
        self.candidate_layout.check(candidate, "the candidate")
        return {
            name: self.moved(name, tensor) if tensor.is_floating_point() else tensor.clone()
            for name, tensor in candidate.items()
        }

    def moved(self, name: str, tensor: Tensor, *, skip: Collection[int] = ()) -> Tensor:
        """Return one tensor in the reference's shape.

        Args:
            name: Its name.
            tensor: ``[*lead, *s]``.
            skip: The numbers of axes that are left as they are, with all that are linked to them.

        Returns:
            ``[*lead, *s]``.
        """
        axes = list(self.candidate_layout.axes[name])
        for linked in linked_axes(self.layout, name):
            if not any(number in skip for number in linked):
                becoming = {number: self.layout.axes[name][number] for number in linked}
                consumed = any((name, number) in self.consuming for number in linked)
                tensor = self._along(tensor, axes, becoming, consumed=consumed)
                axes = _replaced(axes, becoming)
        return tensor

    def _along(self, tensor: Tensor, axes: Sequence[Axis], becoming: Mapping[int, Axis], *, consumed: bool) -> Tensor:
        """Return a tensor ``[*lead, *s]`` with some of its axes moved."""
        alone = only(axes, becoming)
        target = _replaced(alone, becoming)

        def act(cell: Tensor, atoms: tuple[Atom, ...]) -> Tensor:
            held = [str(atom.group) for atom in atoms if atom.group in self.plans]
            matrices = {group: self.matrix(group, consumed=consumed).to(cell) for group in held}
            return act_softly(self.layout, matrices, cell, atoms)

        return map_cells(tensor, alone, act, becoming=target)

    def matrix(self, group: str, *, consumed: bool) -> Tensor:
        """Return the matrix that acts on a group's axes.

        Args:
            group: The group.
            consumed: Whether units are read along the axis, or computed.

        Returns:
            ``[n_reference, n_candidate]``, or ``[H, m, H', m']``: with columns that sum to 1 where units are read, rows
            where they are computed.
        """
        plan = self.plans[group]
        rows = plan.shape[: plan.dim() // 2].numel()
        return normalized(plan.reshape(rows, -1), consumed=consumed).reshape(plan.shape)


def normalized(plan: Tensor, *, consumed: bool) -> Tensor:
    """Return a plan with columns that sum to 1 (``consumed``) or rows that do; those without mass stay zero.

    Args:
        plan: ``[m, n]``.
        consumed: Which of them.

    Returns:
        ``[m, n]``.
    """
    mass = plan.sum(0 if consumed else 1, keepdim=True)
    return torch.where(mass > 0, plan / mass.clamp_min(1e-300), torch.zeros_like(plan))


def conventional_input_axes(layout: Layout) -> frozenset[tuple[str, int]]:
    """Return the axes along which weights read units if they are stored as ``[outputs, inputs, ...]``.

    Args:
        layout: Names the tensors.

    Returns:
        All axes of every tensor but the first, and those whose units lie within the units of the first or around them.
    """
    return frozenset(
        (name, number)
        for name in layout.axes
        for linked in linked_axes(layout, name)
        for number in linked
        if 0 not in linked
    )


def require_direction(coupling: Coupling, unclear: Collection[tuple[str, int]]) -> None:
    """Raise if it is not known in which direction a plan acts on an axis, and this makes a difference.

    Args:
        coupling: With its plans.
        unclear: The axes ``(tensor, number)`` of which it is unknown whether units are read or computed along them.

    Raises:
        InvalidInputError: If a plan's two matrices differ, and its group is on such an axis.
    """
    directed = {name for name in coupling.plans if _differ(coupling, name)}
    axes = coupling.layout.axes
    found = sorted({
        name for name, number in unclear if any(atom.group in directed for atom in atoms_of(axes[name][number]))
    })
    if found:
        named = ", ".join(f"`{name}`" for name in found[:_MOST_NAMED]) + (", ..." if len(found) > _MOST_NAMED else "")
        message = (
            f"it is not known along which axes of {named} units are read, and along which they are computed; between "
            f"different widths, or masses, the groups {sorted(directed)} are carried over differently there; give "
            "`model` and `data`, one batch of which shows how the network uses its tensors"
        )
        raise InvalidInputError(message)


def _differ(coupling: Coupling, group: str) -> bool:
    """Return whether a plan acts differently on axes that read units and on axes that compute them."""
    computed = coupling.matrix(group, consumed=False)
    read = coupling.matrix(group, consumed=True)
    return not torch.allclose(computed, read, rtol=0, atol=_SAME)


def require_same_form(layout: Layout, other: Layout) -> None:
    """Refuse two specifications that differ in more than the sizes of groups.

    Args:
        layout: Of the reference.
        other: Of the candidate.

    Raises:
        InvalidInputError: If names, or the form of an axis, differ; or a group within another one has another size.
    """
    if layout.groups.keys() != other.groups.keys() or layout.axes.keys() != other.axes.keys():
        unlike = sorted((layout.groups.keys() ^ other.groups.keys()) | (layout.axes.keys() ^ other.axes.keys()))
        message = f"the two specifications do not name the same groups and tensors: {unlike[:8]}"
        raise InvalidInputError(message)
    nested = {g for n in layout.groups for g in (n, *layout.ancestors(n)) if layout.ancestors(n)}
    for name in nested:
        if layout.groups[name].size != other.groups[name].size:
            message = (
                f"the group `{name}` has {layout.groups[name].size} units in the reference and "
                f"{other.groups[name].size} in the candidate; groups within groups, and around them, must be equal"
            )
            raise InvalidInputError(message)
    for name, axes in layout.axes.items():
        forms = [_form(side.axes[name]) for side in (layout, other)]
        if forms[0] != forms[1]:
            message = f"the axes of `{name}` differ in more than the sizes of groups: {axes} and {other.axes[name]}"
            raise InvalidInputError(message)


def only(axes: Sequence[Axis], numbers: Collection[int]) -> list[Axis]:
    """Return axes of which all but some hold fixed positions.

    Args:
        axes: The axes.
        numbers: Those that stay as they are.

    Returns:
        The axes.
    """
    return [axis if place in numbers else Atom(axis.size) for place, axis in enumerate(axes)]


def _replaced(axes: Sequence[Axis], becoming: Mapping[int, Axis]) -> list[Axis]:
    """Return axes with those of some numbers replaced."""
    replaced = list(axes)
    for number, axis in becoming.items():
        replaced[number] = axis
    return replaced


def _form(axes: Axis | Sequence[Axis]) -> object:
    """Return what two axes have in common that differ in the sizes of groups alone."""
    if isinstance(axes, Atom):
        return axes.size if axes.group is None else axes.group
    if isinstance(axes, Product):
        return "product", *map(_form, axes.factors)
    if isinstance(axes, Concat):
        return "concatenation", *map(_form, axes.parts)
    return tuple(map(_form, axes))
