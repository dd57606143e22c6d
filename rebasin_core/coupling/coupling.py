"""Couplings: transport plans between the units of two networks of equal or different widths."""

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

# Largest difference between the matrices of both directions that the tolerance of the solvers explains.
_TOLERANCE = 1e-3
# Maximum number of tensors that a message names.
_MAX_NAMED = 8


@final
@dataclass(frozen=True, slots=True)
class Coupling:
    r"""Transport plans between the units of a candidate and of a reference, one for each group.

    A plan $T$ has the masses $a_i = \sum_j T_{ij}$ of the reference's units and $b_j = \sum_i T_{ij}$ of the
    candidate's units. It maps the candidate to a network of the reference's shape. Incoming weights are averaged,
    outgoing weights are divided among the units:

    $$ w'_{i\cdot} = \sum_j \frac{T_{ij}}{a_i} w_{j\cdot}, \qquad
       w'_{\cdot i} = \sum_j w_{\cdot j} \frac{T_{ij}}{b_j}. $$

    The function is preserved if the plan duplicates units, or merges units that are duplicates. If $T$ is proportional
    to a permutation matrix, both formulas are the action of the permutation. Units without mass become zero.

    Attributes:
        layout: Layout of the reference.
        candidate_layout: Layout of the candidate: the same groups, possibly with other sizes.
        plans: ``[n_reference, n_candidate]`` for every group that is not nested; ``[H, m, H', m']`` for a group of
            ``m`` units nested in one of ``H`` units, such as the width inside attention heads.
        costs: Ground costs of the plans, of the same shapes. The cost of a pair of heads includes ``m`` times the cost
            of the plan between the widths inside them.
        input_axes: Axes ``(tensor, index)`` along which a tensor takes units as inputs.
    """

    layout: Layout
    candidate_layout: Layout
    plans: Mapping[str, Tensor]
    costs: Mapping[str, Tensor]
    input_axes: Collection[tuple[str, int]]

    def apply(self, candidate: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map the candidate's tensors to the reference's shapes.

        Args:
            candidate: Tensors ``[*lead, *s]`` by name, of the shapes in the candidate's layout.

        Returns:
            New tensors; integer tensors are copied unchanged.

        Raises:
            InvalidInputError: If a tensor does not fit the candidate's layout.
        """
        self.candidate_layout.check(candidate, "the candidate")
        mapped = {
            name: self.map_tensor(name, tensor) if tensor.is_floating_point() else tensor.clone()
            for name, tensor in self.candidate_layout.stacked(candidate).items()
        }
        return self.layout.unstacked(mapped) if self.layout.stacks else mapped

    def map_tensor(self, name: str, tensor: Tensor, *, skip: Collection[int] = ()) -> Tensor:
        """Map one tensor of the candidate to the reference's shape.

        Args:
            name: Name of the tensor.
            tensor: Tensor ``[*lead, *s]``.
            skip: Indices of axes that are not mapped, nor are the axes linked to them.

        Returns:
            ``[*lead, *s]``.
        """
        axes = list(self.candidate_layout.axes[name])
        for linked in linked_axes(self.layout, name):
            if not any(index in skip for index in linked):
                target = {index: self.layout.axes[name][index] for index in linked}
                is_input = any((name, index) in self.input_axes for index in linked)
                tensor = self._map_axes(tensor, axes, target, is_input=is_input)
                axes = _replaced(axes, target)
        return tensor

    def _map_axes(self, tensor: Tensor, axes: Sequence[Axis], target: Mapping[int, Axis], *, is_input: bool) -> Tensor:
        """Return a tensor ``[*lead, *s]`` with the plans applied to some of its axes."""
        alone = only(axes, target)

        def act(cell: Tensor, atoms: tuple[Atom, ...]) -> Tensor:
            groups = [str(atom.group) for atom in atoms if atom.group in self.plans]
            matrices = {group: self.matrix(group, is_input=is_input).to(cell) for group in groups}
            return act_softly(self.layout, matrices, cell, atoms)

        return map_cells(tensor, alone, act, becoming=_replaced(alone, target))

    def matrix(self, group: str, *, is_input: bool) -> Tensor:
        """Return the matrix that acts on the axes of a group.

        Args:
            group: Name of the group.
            is_input: Whether the axis takes units as inputs, or computes them.

        Returns:
            ``[n_reference, n_candidate]``, or ``[H, m, H', m']``. Its columns sum to 1 for input axes, its rows sum to
            1 for axes that compute units.
        """
        plan = self.plans[group]
        rows = plan.shape[: plan.dim() // 2].numel()
        return normalized(plan.reshape(rows, -1), dim=0 if is_input else 1).reshape(plan.shape)


def normalized(plan: Tensor, *, dim: int) -> Tensor:
    """Return a plan whose sums along a dimension are 1; rows or columns without mass stay zero.

    Args:
        plan: ``[m, n]``.
        dim: Dimension of the sums: 0 for columns that sum to 1, 1 for rows.

    Returns:
        ``[m, n]``.
    """
    mass = plan.sum(dim, keepdim=True)
    return torch.where(mass > 0, plan / mass.clamp_min(1e-300), torch.zeros_like(plan))


def conventional_input_axes(layout: Layout) -> frozenset[tuple[str, int]]:
    """Return the input axes of all tensors if weights are stored as ``[outputs, inputs, ...]``.

    Args:
        layout: Layout of the tensors.

    Returns:
        All axes except the first of each tensor, and except those linked to the first by nested groups.
    """
    return frozenset(
        (name, index)
        for name in layout.axes
        for linked in linked_axes(layout, name)
        for index in linked
        if 0 not in linked
    )


def require_direction(coupling: Coupling, unclear: Collection[tuple[str, int]]) -> None:
    """Raise if the direction in which a plan acts on an axis is unknown and matters.

    Args:
        coupling: The coupling, with its plans.
        unclear: Axes ``(tensor, index)`` that may take units as inputs or compute them.

    Raises:
        InvalidInputError: If a plan has different matrices for both directions, and its group acts on such an axis.
    """
    directed = {name for name in coupling.plans if _differ(coupling, name)}
    axes = coupling.layout.axes
    found = sorted({
        name for name, index in unclear if any(atom.group in directed for atom in atoms_of(axes[name][index]))
    })
    if found:
        named = ", ".join(f"`{name}`" for name in found[:_MAX_NAMED]) + (", ..." if len(found) > _MAX_NAMED else "")
        message = (
            f"cannot determine which axes of {named} take units as inputs and which compute them; the plans of the "
            f"groups {sorted(directed)}, with different widths or masses, act differently on these axes; pass `model` "
            "and `data` (one batch is run to determine the axes)"
        )
        raise InvalidInputError(message)


def _differ(coupling: Coupling, group: str) -> bool:
    """Return whether a plan acts differently on input axes and on axes that compute units."""
    computing = coupling.matrix(group, is_input=False)
    taking = coupling.matrix(group, is_input=True)
    return not torch.allclose(computing, taking, rtol=0, atol=_TOLERANCE)


def require_same_form(layout: Layout, other: Layout) -> None:
    """Raise if two layouts differ in more than the sizes of groups.

    Args:
        layout: Layout of the reference.
        other: Layout of the candidate.

    Raises:
        InvalidInputError: If names of groups or tensors differ, the structure of an axis differs, or nested groups (or
            the groups around them) have different sizes.
    """
    if layout.groups.keys() != other.groups.keys() or layout.axes.keys() != other.axes.keys():
        different = sorted((layout.groups.keys() ^ other.groups.keys()) | (layout.axes.keys() ^ other.axes.keys()))
        message = f"the two specifications do not have the same groups and tensors: {different[:8]}"
        raise InvalidInputError(message)
    nested = {g for n in layout.groups for g in (n, *layout.ancestors(n)) if layout.ancestors(n)}
    for name in nested:
        if layout.groups[name].size != other.groups[name].size:
            message = (
                f"the group `{name}` has {layout.groups[name].size} units in the reference and "
                f"{other.groups[name].size} in the candidate; nested groups, and groups around them, must have equal "
                "sizes"
            )
            raise InvalidInputError(message)
    for name, axes in layout.axes.items():
        forms = [_form(side.axes[name]) for side in (layout, other)]
        if forms[0] != forms[1]:
            message = f"the axes of `{name}` differ in more than the sizes of groups: {axes} and {other.axes[name]}"
            raise InvalidInputError(message)


def only(axes: Sequence[Axis], indices: Collection[int]) -> list[Axis]:
    """Return axes of which all but the given ones are replaced by fixed axes.

    Args:
        axes: The axes.
        indices: Indices of the axes that are not replaced.

    Returns:
        The axes.
    """
    return [axis if index in indices else Atom(axis.size) for index, axis in enumerate(axes)]


def _replaced(axes: Sequence[Axis], target: Mapping[int, Axis]) -> list[Axis]:
    """Return axes with some replaced, by index."""
    replaced = list(axes)
    for index, axis in target.items():
        replaced[index] = axis
    return replaced


def _form(axes: Axis | Sequence[Axis]) -> object:
    """Return the structure of axes without the sizes of groups."""
    if isinstance(axes, Atom):
        return axes.size if axes.group is None else axes.group
    if isinstance(axes, Product):
        return "product", *map(_form, axes.factors)
    if isinstance(axes, Concat):
        return "concatenation", *map(_form, axes.parts)
    return tuple(map(_form, axes))
