"""Scale (ReLU) and sign (tanh) symmetries of single units, as group actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.cell import map_cells
from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.axis import Atom
    from rebasin_core.symmetry.layout import Layout

RescalingKind: TypeAlias = Literal["scale", "sign"]


@final
@dataclass(frozen=True, slots=True)
class Rescaling:
    r"""A rescaling symmetry of the units of one group.

    If the activation of a unit is positively homogeneous ($\mathrm{relu}(\lambda x) = \lambda\, \mathrm{relu}(x)$), the
    function is preserved when its incoming weights and bias are multiplied by $\lambda > 0$ and its outgoing weights
    divided by $\lambda$. If the activation is odd ($\tanh$), all of these can be multiplied by $-1$.

    Attributes:
        group: The group whose units are scaled, one factor per unit.
        kind: ``scale`` (any positive factor) or ``sign`` (1 or -1).
        degrees: Integer exponent of the factor, often 1 or -1, by tensor name and dimension; other axes are not scaled.
    """

    group: str
    kind: RescalingKind
    degrees: Mapping[tuple[str, int], int]

    def __post_init__(self) -> None:
        """Freeze the mapping."""
        object.__setattr__(self, "degrees", FrozenMapping(dict(self.degrees)))


@final
class UnitScaling:
    """One factor for every unit of some groups: an element of the group of rescalings.

    Args:
        layout: The groups and the axes they act on.
        rescalings: The rescaling symmetries, one per group.
        factors: ``[n]`` for every rescaling, in the same order: positive for ``scale``, 1 or -1 for ``sign``.

    Raises:
        InvalidInputError: If a factor is not allowed, or their number differs from the size of the group.
    """

    def __init__(self, layout: Layout, rescalings: Sequence[Rescaling], factors: Sequence[Tensor]) -> None:
        for rescaling, factor in zip(rescalings, factors, strict=True):
            size = layout.groups[rescaling.group].size
            allowed = factor > 0 if rescaling.kind == "scale" else factor.abs() == 1
            if tuple(factor.shape) != (size,) or not bool(allowed.all()):
                message = f"expected {size} factors of kind {rescaling.kind!r} for {rescaling.group!r}, got {factor}"
                raise InvalidInputError(message)
        self._layout = layout
        self._rescalings = tuple(rescalings)
        self._factors = tuple(factor.detach().clone() for factor in factors)

    @property
    def factors(self) -> tuple[Tensor, ...]:
        """The factors, one tensor ``[n]`` for every rescaling."""
        return self._factors

    def inverse(self) -> UnitScaling:
        """Return the inverse rescaling."""
        return UnitScaling(self._layout, self._rescalings, [1 / factor for factor in self._factors])

    def compose(self, then: UnitScaling) -> UnitScaling:
        """Return the composition with another rescaling of the same groups and kinds.

        Args:
            then: The other rescaling; rescalings commute.

        Returns:
            The product.
        """
        both = [a * b for a, b in zip(self._factors, then.factors, strict=True)]
        return UnitScaling(self._layout, self._rescalings, both)

    def apply(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return scaled copies of tensors; other tensors are copied unchanged.

        Args:
            tensors: Tensors by name, each ``[*lead, *s]`` with the shape ``s`` in the layout.

        Returns:
            The scaled tensors.

        Raises:
            InvalidInputError: If a tensor is not in the layout or has another shape.
        """
        self._layout.check(tensors, "the mapping", complete=False)
        result = {name: tensor.clone() for name, tensor in tensors.items()}
        for rescaling, factor in zip(self._rescalings, self._factors, strict=True):
            for (name, dim), degree in rescaling.degrees.items():
                if name in result:
                    result[name] = self._scaled(name, dim, result[name], rescaling.group, factor**degree)
        return result

    def _scaled(self, name: str, dim: int, tensor: Tensor, group: str, factor: Tensor) -> Tensor:
        axes = self._layout.axes[name]
        actual_dim = tensor.dim() - len(axes) + dim

        def multiply(cell: Tensor, atoms: Sequence[Atom]) -> Tensor:
            for position, atom in enumerate(atoms):
                if atom.group == group:
                    inner = [1] * (len(atoms) - position - 1)
                    cell = cell * factor.to(cell).reshape(-1, *inner)  # ruff: ignore[non-augmented-assignment] - a view of the input
            return cell

        return map_cells(tensor.movedim(actual_dim, -1), (axes[dim],), multiply).movedim(-1, actual_dim)


def unit_norms(layout: Layout, group: str, name: str, dim: int, tensor: Tensor) -> Tensor:
    """Return the squared norm of the entries that belong to each unit of a group, on one axis of a tensor.

    Args:
        layout: The groups and the axes they act on.
        group: The group; it must not be nested.
        name: The tensor.
        dim: The dimension on which the group acts.
        tensor: ``[*s]``.

    Returns:
        ``[n]`` in float64.
    """
    size = layout.groups[group].size
    squares = tensor.double().square().movedim(dim, -1)
    totals = torch.zeros(size, dtype=torch.float64, device=tensor.device)

    def add(cell: Tensor, atoms: Sequence[Atom]) -> Tensor:
        for position, atom in enumerate(atoms):
            if atom.group == group:
                cell_dim = cell.dim() - len(atoms) + position
                totals.add_(cell.movedim(cell_dim, -1).reshape(-1, size).sum(0))
        return cell

    map_cells(squares, (layout.axes[name][dim],), add)
    return totals
