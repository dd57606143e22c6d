"""Record of the uses of parameters while a model runs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, final

from rebasin_core.evaluation.reading.labels import Role
from rebasin_core.evaluation.reading.uses import ModelReading, WeightUse

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.evaluation.reading.origins import NamedAxis, Origin


@final
class Ledger:
    """Accumulator of the entries of a `ModelReading`.

    Args:
        tensors: Parameters and buffers by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._uses: list[WeightUse] = []
        self._times: Counter[str] = Counter()
        self._roles = {name: [set[Role]() for _ in tensor.shape] for name, tensor in tensors.items()}
        self._reasons: dict[str, str] = {}
        self._last: frozenset[str] = frozenset()

    def count(self, origin: Origin) -> None:
        """Record that a tensor is used with activations.

        Args:
            origin: Origin of the tensor.
        """
        self._times.update(origin.names)

    def assign(self, origin: Origin, roles: Sequence[Role | None]) -> None:
        """Record the roles of the dimensions of a tensor.

        Args:
            origin: Origin of the tensor.
            roles: Role of each dimension; None for dimensions without a role.
        """
        for axes, role in zip(origin.axes, roles, strict=True):
            if role is not None:
                self._assign(axes, role)
        self._assign(origin.summed, Role.UNKNOWN)
        if not origin.is_known:
            self._assign(((name, k) for name in origin.names for k in range(len(self._roles[name]))), Role.UNKNOWN)

    def assign_summed(self, axes: Iterable[NamedAxis]) -> None:
        """Record that axes of factors are summed over after the multiplication; they read units.

        Args:
            axes: Axes of factors that were recorded as outputs at the multiplication.
        """
        for name, number in axes:
            if self._times[name] == 1:
                self._roles[name][number].discard(Role.OUTPUT)
            self._roles[name][number].add(Role.INPUT)

    def explain(self, names: Iterable[str], why: str) -> None:
        """Record why weights are excluded; the first reason of each is kept.

        Args:
            names: Names of the weights.
            why: The reason.
        """
        self._reasons = {**dict.fromkeys(names, why), **self._reasons}

    def add(self, use: WeightUse) -> int:
        """Add a product.

        Args:
            use: The product.

        Returns:
            Index of the product.
        """
        self._uses.append(use)
        return len(self._uses) - 1

    def finish(self, names: frozenset[str]) -> None:
        """Record the weights of the most recent product.

        Args:
            names: Names of all its parameters.
        """
        self._last = names

    def add_bias(self, index: int, name: str, tensor: Tensor, unit_dim: int) -> None:
        """Record a parameter that is added to a product as its bias, if it is the first and has one value per unit.

        Args:
            index: Index of the product.
            name: Name of the parameter.
            tensor: The tensor that is added.
            unit_dim: Dimension of the units, counted from the end (negative).
        """
        use = self._uses[index]
        if use.bias is None and has_one_value_a_unit(tensor, unit_dim, use.output_shape[use.product_dim]):
            self._uses[index] = replace(use, bias=name, bias_is_separate=True, unit_dim=unit_dim)

    def reading(self, *, unseen: bool) -> ModelReading:
        """Return the reading of all recorded uses.

        Args:
            unseen: Whether activations were multiplied with tensors of unknown origin.

        Returns:
            The reading.
        """
        never = [name for name, held in self._roles.items() if unseen and held and not self._times[name]]
        self.explain(never, "no use of it was seen, and activations are multiplied with tensors of unknown origin")
        roles = {name: tuple(map(frozenset, held)) for name, held in self._roles.items()}
        return ModelReading(tuple(self._uses), dict(self._times), roles, self._reasons, self._last)

    def _assign(self, axes: Iterable[NamedAxis], role: Role) -> None:
        for name, number in axes:
            self._roles[name][number].add(role)


def has_one_value_a_unit(tensor: Tensor, unit_dim: int, units: int) -> bool:
    """Return whether a tensor has one value for each unit, along the dimension of the units.

    Args:
        tensor: A tensor that is added to a product.
        unit_dim: Dimension of the units of the product, counted from the end (negative).
        units: Number of units.

    Returns:
        Whether the tensor is one value per unit, broadcast over the other dimensions.
    """
    along = tensor.dim() + unit_dim
    return along >= 0 and tensor.numel() == tensor.shape[along] == units
