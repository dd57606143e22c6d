"""The linear maps of a group element: one map, or the identity, for every linear symmetry."""

from __future__ import annotations

import math
from itertools import starmap
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.axis import Atom
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.linear_action import act_linearly
from rebasin_core.symmetry.shifts import require_weights, shift_values
from rebasin_core.symmetry.slots import contains_permutations
from rebasin_core.symmetry.unit_map import UnitMap, identity_like

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.kind import Shift, Slot
    from rebasin_core.symmetry.linear import LinearSymmetry, Symmetry
    from rebasin_core.symmetry.permutation import Permutation

# Entries of maps that differ by less are equal up to rounding.
_ROUNDING = 1e-8
# Deviation from their values that tensors in `LinearSymmetry.required` can have: the rounding of averages in float32.
_DEVIATION = 1e-5


@final
class LinearMaps:
    """One map for every linear symmetry of a symmetry, without a permutation.

    Attributes:
        symmetry: The linear symmetries.
        maps: Their maps; None for those that are exactly the identity, which act on nothing.

    Args:
        symmetry: The linear symmetries.
        maps: One map for each of them, or None for the identity; they are not checked.
    """

    def __init__(self, symmetry: Symmetry, maps: Sequence[UnitMap | None]) -> None:
        self.symmetry = symmetry
        self.maps = tuple(None if item is None or item.is_identity else item for item in maps)

    @property
    def are_trivial(self) -> bool:
        """Whether all maps are exactly the identity."""
        return all(item is None for item in self.maps)

    def acting(self) -> tuple[LinearSymmetry, ...]:
        """Return the linear symmetries whose maps are not the identity."""
        pairs = zip(self.symmetry.linear, self.maps, strict=True)
        return tuple(linear for linear, item in pairs if item is not None)

    def acting_on(self, name: str) -> tuple[tuple[Slot, LinearSymmetry], ...]:
        """Return the slots of a tensor that are transformed by a map other than the identity.

        Args:
            name: Name of a tensor in the layout.

        Returns:
            The slots, each with its linear symmetry.
        """
        slots = self.symmetry.by_tensor.get(name, ())
        return tuple((slot, self.symmetry.linear[k]) for slot, k in slots if self.maps[k] is not None)

    def shifts_of(self, name: str) -> tuple[Shift, ...]:
        """Return the shifts of a bias, if flips other than the identity act.

        Args:
            name: Name of a tensor in the layout.

        Returns:
            The shifts; empty for other tensors.
        """
        own = tuple(shift for shift in self.symmetry.shifts if shift.bias == name)
        return own if own and any(linear.shifts for linear in self.acting()) else ()

    def moves(self, name: str) -> bool:
        """Return whether a map other than the identity transforms a tensor.

        Args:
            name: Name of a tensor in the layout.

        Returns:
            Whether it acts on a slot of the tensor, or shifts it.
        """
        return bool(self.acting_on(name) or self.shifts_of(name))

    def within(self, symmetry: Symmetry) -> LinearMaps:
        """Return the maps of a symmetry that has the same ones in other coordinates.

        Args:
            symmetry: A symmetry with flips instead of signs, or the reverse, in the same order.

        Returns:
            The maps.
        """
        pairs = zip(symmetry.linear, self.maps, strict=True)
        return LinearMaps(
            symmetry, [None if item is None else UnitMap(linear.kind, item.value) for linear, item in pairs]
        )

    def act(self, name: str, tensor: Tensor, *, dims: Sequence[int] | None = None) -> Tensor:
        """Return a transformed tensor, in centered coordinates if it is a bias that flips shift; see `act_linearly`.

        Args:
            name: Name of a tensor in the layout. It may be one of a stack, if the maps do not depend on the groups of
                the stack.
            tensor: ``[*lead, *sizes]``.
            dims: Indices of the axes that the trailing dimensions have; all if None.

        Returns:
            The transformed tensor; the same object if no map acts on it.

        Raises:
            InvalidInputError: If the tensor is one of a stack, and a map depends on a group of the stack.
        """
        layout = self.symmetry.layout
        key = layout.key(name)
        if key != name and key in layout.stacks:
            count = len(layout.stacks[key].sizes)
            if any(slot.dim < count for slot, _ in self.acting_on(key)):
                message = (
                    f"cannot transform `{name}` alone: maps act on the groups of the stack `{key}`; transform all of "
                    "its tensors together"
                )
                raise InvalidInputError(message)
            own = range(len(layout.axes[key]) - count) if dims is None else dims
            dims = [count + index for index in own]
        return act_linearly(self.symmetry, self.maps, key, tensor, dims=dims)

    def act_among(self, name: str, tensor: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return a transformed tensor of a network, or deviations from one.

        Args:
            name: Name of a tensor in the layout.
            tensor: ``[*lead, *s]``.
            tensors: All tensors by their names in the layout; for biases that flips shift, the weights are used.

        Returns:
            The transformed tensor; the same object if no map acts on it.

        Raises:
            InvalidInputError: If a map acts on an integer tensor, or the weight of a bias that flips shift is missing.
        """
        shifts = self.shifts_of(name)
        if not shifts:
            return self.act(name, tensor)
        require_weights(shifts, tensors)
        weights = {shift.weight: tensors[shift.weight].to(tensor.device) for shift in shifts}
        moved = {weight: self.act(weight, value) for weight, value in weights.items()}
        before = shift_values(self.symmetry.layout, shifts, weights)[name]
        after = shift_values(self.symmetry.layout, shifts, moved)[name]
        return (self.act(name, tensor.to(before.dtype) + before) - after).to(tensor.dtype)

    def require_values(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise if a tensor that must be one, or zero, for a map is not.

        Args:
            tensors: Tensors of a network by their names in the layout; others are not checked.

        Raises:
            InvalidInputError: If an entry of such a tensor has another value.
        """
        for linear in self.acting():
            for name, value in linear.required.items():
                if name in tensors and not bool(((tensors[name] - value).abs() <= _DEVIATION).all()):
                    expected = "one" if value else "zero"
                    message = (
                        f"`{name}` must be {expected} in all entries for maps of kind {linear.kind} of group "
                        f"{linear.group!r}; first fold it into the weights that follow (`rebasin_core.fold`)"
                    )
                    raise InvalidInputError(message)

    def inverse(self) -> LinearMaps:
        """Return the inverse maps."""
        return self._mapped(UnitMap.inverse)

    def compose(self, then: LinearMaps) -> LinearMaps:
        """Return the maps that apply these first, then others.

        Args:
            then: Maps of the same symmetry, or of one with other linear symmetries of the same layout.

        Returns:
            The compositions, with the linear symmetries of both.

        Raises:
            InvalidInputError: If the two have no common symmetry (see `Symmetry.union`).
        """
        if self.are_trivial or then.are_trivial:
            return then if self.are_trivial else self
        try:
            union = self.symmetry.union(then.symmetry)
        except SpecError as error:
            message = f"the elements cannot be composed: {error}"
            raise InvalidInputError(message) from error
        pairs = zip(self._within(union), then._within(union), strict=True)
        return LinearMaps(union, list(starmap(_composed, pairs)))

    def _within(self, union: Symmetry) -> list[UnitMap | None]:
        """Return the maps of the linear symmetries of a union."""
        found = dict(zip((union.linear.index(linear) for linear in self.symmetry.linear), self.maps, strict=True))
        return [found.get(k) for k in range(len(union.linear))]

    def conjugated(self, permutation: Permutation) -> LinearMaps:
        """Return the maps $p g p^{-1}$, which act in the order of the units after a permutation.

        Args:
            permutation: The permutation $p$.

        Returns:
            The conjugates.
        """

        def action(linear: LinearSymmetry) -> Callable[[Tensor, int], Tensor]:
            return lambda value, own: self._permuted(permutation, linear, value, own)

        pairs = zip(self.symmetry.linear, self.maps, strict=True)
        maps = [None if item is None else item.conjugated(action(linear)) for linear, item in pairs]
        return LinearMaps(self.symmetry, maps)

    def isometry(self) -> LinearMaps:
        """Return the maps with all factors of absolute value 1, and without invertible maps.

        They map independent standard normal noise to independent standard normal noise.
        """
        return self._mapped(lambda item: item.isometry)

    def absolute(self) -> LinearMaps:
        """Return the maps with the absolute values of all factors, and without orthogonal and invertible maps.

        They map standard deviations of independent entries.
        """
        return self._mapped(lambda item: item.absolute)

    def to(self, device: torch.device | str) -> LinearMaps:
        """Return the maps on a device.

        Args:
            device: The target device.

        Returns:
            Equal maps.
        """
        return self._mapped(lambda item: UnitMap(item.kind, item.value.to(device)))

    def is_inverse_of(self, permutation: Permutation) -> bool:
        """Return whether these maps and the permutation after them leave all tensors unchanged, up to rounding.

        Args:
            permutation: The permutation.

        Returns:
            Whether they are the identity together.
        """
        covered = self._covered()
        if any(count for group, count in permutation.moved.items() if group not in covered):
            return False
        pairs = zip(self.symmetry.linear, self.maps, strict=True)
        return all(self._deviation(linear, item, permutation) <= _ROUNDING for linear, item in pairs)

    def _covered(self) -> tuple[str, ...]:
        """Return the groups whose maps contain their permutations."""
        layout = self.symmetry.layout
        return tuple(linear.group for linear in self.symmetry.linear if contains_permutations(layout, linear))

    def _deviation(self, linear: LinearSymmetry, item: UnitMap | None, permutation: Permutation) -> float:
        """Return the largest deviation of an entry of the map and the permutation together from the identity."""
        if linear.kind.is_factor or linear.kind is Kind.ROTATION:
            return 0.0 if item is None else (item.value - identity_like(item.kind, item.value)).abs().max().item()
        value = self._with_permutation(linear, item, permutation, contragredient=False)
        return (value - identity_like(linear.kind, value)).abs().max().item()

    def distances(self, permutation: Permutation) -> dict[str, float]:
        """Return the distances from the identity of these maps and a permutation together.

        Args:
            permutation: The permutation.

        Returns:
            The distance by group, as in `GroupElement.distances`.
        """
        found = dict(permutation.distances)
        found |= dict.fromkeys(self._covered(), 0.0)
        for linear, item in zip(self.symmetry.linear, self.maps, strict=True):
            squares = [self._squared_distance(linear, item, permutation, contragredient=side) for side in (False, True)]
            found[linear.group] = max(found.get(linear.group, 0.0), math.sqrt(sum(squares) / 2))
        return found

    def _squared_distance(
        self, linear: LinearSymmetry, item: UnitMap | None, permutation: Permutation, *, contragredient: bool
    ) -> float:
        moved = permutation.moved.get(linear.group, 0)
        if item is None:
            return 2.0 * moved
        value = item.contragredient if contragredient else item.value
        if linear.kind is Kind.ROTATION:
            return 2 * (value - identity_like(linear.kind, value)).square().sum().item()
        if not linear.kind.is_factor:
            value = self._with_permutation(linear, item, permutation, contragredient=contragredient)
            return (value - identity_like(linear.kind, value)).square().sum().item()
        if not moved:
            return (value - 1).square().sum().item()
        # In the rows of units that the permutation does not fix, the diagonal is zero.
        index = permutation.indices[linear.group].to(value.device)
        fixed = index == torch.arange(index.shape[-1], device=index.device)
        permuted = self._permuted(permutation, linear, value, 1)
        return torch.where(fixed, (permuted - 1).square(), permuted.square() + 1).sum().item()

    def _with_permutation(
        self, linear: LinearSymmetry, item: UnitMap | None, permutation: Permutation, *, contragredient: bool
    ) -> Tensor:
        """Return the matrices of a map and the permutation together, in the new order of the outer units."""
        if item is None:
            shape = self.symmetry.map_shape(linear)
            value = torch.eye(shape[-1], dtype=torch.float64).expand(shape)
        else:
            value = item.contragredient if contragredient else item.value
        return self._permuted(permutation, linear, value, 1)

    def _permuted(self, permutation: Permutation, linear: LinearSymmetry, value: Tensor, own: int) -> Tensor:
        """Return a map with its outer dimensions and the first ``own`` dimensions of the group permuted."""
        groups = self.symmetry.layout.groups
        names = [*self.symmetry.layout.ancestors(linear.group), *[linear.group] * own]
        atoms = [Atom(groups[name].size, name if name in permutation.layout.groups else None) for name in names]
        rest = [Atom(size) for size in value.shape[len(atoms) :]]
        return act(permutation.layout, permutation.indices, value, [*atoms, *rest])

    def _mapped(self, function: Callable[[UnitMap], UnitMap | None]) -> LinearMaps:
        return LinearMaps(self.symmetry, [None if item is None else function(item) for item in self.maps])


def _composed(first: UnitMap | None, then: UnitMap | None) -> UnitMap | None:
    if first is None or then is None:
        return then if first is None else first
    return first.compose(then)
