"""What is noted of parameters while a model runs."""

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
    """Collects the parts of a `ModelReading`.

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
        """Note that a tensor meets activations once more.

        Args:
            origin: What it is made of.
        """
        self._times.update(origin.names)

    def assign(self, origin: Origin, roles: Sequence[Role | None]) -> None:
        """Note the roles of axes.

        Args:
            origin: What a tensor is made of.
            roles: Of each dimension of the tensor; None for those that play none.
        """
        for axes, role in zip(origin.axes, roles, strict=True):
            if role is not None:
                self._assign(axes, role)
        self._assign(origin.summed, Role.UNKNOWN)
        if not origin.is_known:
            self._assign(((name, k) for name in origin.names for k in range(len(self._roles[name]))), Role.UNKNOWN)

    def assign_summed(self, axes: Iterable[NamedAxis]) -> None:
        """Note that factors are summed over units, which they therefore read.

        Args:
            axes: Axes of factors that were noted as outputs when they were multiplied.
        """
        for name, number in axes:
            if self._times[name] == 1:
                self._roles[name][number].discard(Role.OUTPUT)
            self._roles[name][number].add(Role.INPUT)

    def explain(self, names: Iterable[str], why: str) -> None:
        """Note why weights are not read; the first reason is kept.

        Args:
            names: The weights.
            why: The reason.
        """
        self._reasons = {**dict.fromkeys(names, why), **self._reasons}

    def add(self, use: WeightUse) -> int:
        """Add a product.

        Args:
            use: The product.

        Returns:
            Its number.
        """
        self._uses.append(use)
        return len(self._uses) - 1

    def finish(self, names: frozenset[str]) -> None:
        """Note the weights of a product, which is the last one so far.

        Args:
            names: All that take part.
        """
        self._last = names

    def add_bias(self, number: int, name: str, tensor: Tensor, unit_dim: int) -> None:
        """Note a parameter that is added to a product, if it has one value a unit and is the first.

        Args:
            number: The product's.
            name: The parameter's.
            tensor: The tensor that is added.
            unit_dim: The dimension of the units, from the end.
        """
        use = self._uses[number]
        if use.bias is None and has_one_value_a_unit(tensor, unit_dim, use.output_shape[use.product_dim]):
            self._uses[number] = replace(use, bias=name, bias_is_separate=True, unit_dim=unit_dim)

    def reading(self, *, unseen: bool) -> ModelReading:
        """Return what was noted.

        Args:
            unseen: Whether activations were multiplied with tensors of unknown origin.

        Returns:
            The reading.
        """
        never = [name for name, held in self._roles.items() if unseen and held and not self._times[name]]
        self.explain(never, "it was not met, and activations are multiplied with tensors of unknown origin")
        roles = {name: tuple(map(frozenset, held)) for name, held in self._roles.items()}
        return ModelReading(tuple(self._uses), dict(self._times), roles, self._reasons, self._last)

    def _assign(self, axes: Iterable[NamedAxis], role: Role) -> None:
        for name, number in axes:
            self._roles[name][number].add(role)


def has_one_value_a_unit(tensor: Tensor, unit_dim: int, units: int) -> bool:
    """Return whether a tensor has one value for each unit, along the dimension of the units.

    Args:
        tensor: What is added to a product.
        unit_dim: The dimension of the product's units, from the end.
        units: Their number.

    Returns:
        Whether it has.
    """
    along = tensor.dim() + unit_dim
    return along >= 0 and tensor.numel() == tensor.shape[along] == units
