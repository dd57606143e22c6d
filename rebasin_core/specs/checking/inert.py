"""Tensors that a model uses but that do not affect its outputs, such as the bias of a key before a softmax."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - its documented place
from typing_extensions import override

from rebasin_core.specs.checking.draws import is_number
from rebasin_core.specs.checking.runs import FAILURES
from rebasin_core.tensors.trees import tree_leaves, tree_map

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.specs.checking.point import Point

Influence: TypeAlias = Literal["unused", "inert", "dead"]


@final
class FirstUse(TorchDispatchMode):
    """Perturbs the result of the first operator that depends on a tensor, in the entries that depend on it.

    Args:
        tensor: The tensor.
        other: The tensor with other values.

    Attributes:
        used: Whether any operator computed with the tensor.
        found: Whether the result of an operator was perturbed.
    """

    def __init__(self, tensor: Tensor, other: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types there
        self._tensor = tensor
        self._other = other
        self._generator = torch.Generator().manual_seed(0)
        self.used = False
        self.found = False

    @override
    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs))
        if self.found or func.is_view or not any(self._is_of(leaf) for leaf in leaves):
            return result
        if any(self._is_of(leaf) for leaf in tree_leaves(result)):
            return result  # a view, or the tensor itself
        self.used = True
        changed = func(*tree_map(self._replaced, args), **tree_map(self._replaced, kwargs or {}))
        if isinstance(result, torch.Tensor) and isinstance(changed, torch.Tensor) and is_number(result):
            return self._perturbed(result, changed)
        if isinstance(result, tuple) and result and isinstance(result[0], torch.Tensor) and is_number(result[0]):
            return self._perturbed(result[0], changed[0]), *result[1:]  # normalizations also return statistics
        return result

    def _perturbed(self, result: Tensor, changed: Tensor) -> Tensor:
        step = (changed - result).abs()
        if result.shape != changed.shape or not bool(step.any()):
            return result
        self.found = True
        noise = torch.randn(result.shape, generator=self._generator).to(result)
        return torch.where(step > 0, result + noise * step.square().mean().sqrt(), result)

    def _is_of(self, leaf: object) -> bool:
        # Every view of the tensor shares its memory.
        return (
            isinstance(leaf, torch.Tensor)
            and leaf.layout is torch.strided
            and leaf.untyped_storage().data_ptr() == self._tensor.untyped_storage().data_ptr()
        )

    def _replaced(self, leaf: object) -> object:
        if isinstance(leaf, torch.Tensor) and self._is_of(leaf):
            return self._other.as_strided(leaf.size(), leaf.stride(), leaf.storage_offset())
        return leaf


def classify_influence(point: Point, name: str, other: Tensor, *, threshold: float) -> Influence:
    """Classify a tensor without visible effect on the outputs.

    If the outputs depend on the first result computed from the tensor but not on the tensor itself, its effect cancels
    at all parameters: a softmax, for example, is invariant to a constant added to its inputs.

    Args:
        point: A model at some parameters.
        name: Name of the tensor.
        other: The tensor with other values.
        threshold: Smallest change of the outputs that counts as an effect.

    Returns:
        ``unused`` if the model does not compute with the tensor; ``inert`` if its effect cancels, or if the results
        computed from it are discarded; ``dead`` if they have no effect at these parameters, such as behind saturated
        units.
    """
    tensor = point.tensors[name].contiguous().clone()
    use = FirstUse(tensor, other.contiguous().clone())
    try:
        with torch.no_grad():
            outputs = point.runner({**point.tensors, name: tensor}, within=use)
    except FAILURES:
        return "dead"
    if not use.used:
        return "unused"
    if use.found and point.scales.error(outputs) > threshold:
        return "inert"
    return "inert" if is_number(tensor) and _is_discarded(point, name, other) else "dead"


def _is_discarded(point: Point, name: str, other: Tensor) -> bool:
    """Return whether the outputs do not change for any values of the entries in which ``other`` differs."""
    # NaN propagates through dead and saturated units, large numbers through comparisons.
    tensor = point.tensors[name]
    part = tensor != other
    for factor in (math.nan, 1e3, -1e3, 1e6, -1e6):
        changed = torch.where(part, factor * other, tensor)
        if point.error({**point.tensors, name: changed}) > 0:
            return False
    return True
