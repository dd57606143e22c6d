"""Run models in float64, even if they cast to other types."""

from __future__ import annotations

from itertools import pairwise, starmap
from typing import TYPE_CHECKING, Any, final

import torch
from torch._decomp import decomposition_table  # ruff: ignore[import-private-name] - its documented place
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - its documented place
from typing_extensions import override

from rebasin_core.tensors.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch._ops import OpOverload

_WIDE = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}
_NARROW = {torch.float64: torch.float32, torch.complex128: torch.complex64}


@final
class FullPrecision(TorchDispatchMode):
    """Disables casts to lower precision inside a model.

    An operator without float64 support is decomposed into operators with it, or else runs in float32.

    Attributes:
        needed: Whether the mode changed any operator or dtype.
        single: The operators that ran in float32.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types there
        self.needed = False
        self.single: set[str] = set()

    @override
    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        wide_args, wide_kwargs = tree_map(self._widened, args), tree_map(self._widened, kwargs or {})
        try:
            result = func(*wide_args, **wide_kwargs)
        except RuntimeError as error:
            if _is_mutable(func):
                raise
            self.needed = True
            result = self._replaced(func, wide_args, wide_kwargs, error)
        return tree_map(self._widened, result)

    def _widened(self, leaf: object) -> object:
        if isinstance(leaf, torch.Tensor) and leaf.dtype in _WIDE:
            self.needed = True
            return leaf.to(_WIDE[leaf.dtype])
        if isinstance(leaf, torch.dtype) and leaf in _WIDE:
            self.needed = True
            return _WIDE[leaf]
        return leaf

    def _replaced(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> object:
        """Run an operator that failed in float64: decomposed, or in float32."""
        decomposed: Callable[..., object] | None = _DECOMPOSED.get(str(func)) or decomposition_table.get(func)
        if decomposed is not None:
            try:
                return decomposed(*args, **kwargs)
            except (RuntimeError, TypeError):
                pass  # try float32
        try:
            result: object = func(*tree_map(_narrowed, args), **tree_map(_narrowed, kwargs))
        except RuntimeError:
            raise error from None  # the error in float64 is the more informative one
        self.single.add(str(func))
        return result


def _is_mutable(func: Any) -> bool:  # ruff: ignore[any-type] - an overload of an operator
    return bool(func._schema.is_mutable)  # ruff: ignore[private-member-access] - there is no public attribute


def _narrowed(leaf: object) -> object:
    if isinstance(leaf, torch.Tensor) and leaf.dtype in _NARROW:
        return leaf.to(_NARROW[leaf.dtype])
    return leaf


def _grouped_product(
    left: Tensor,
    right: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Compute the grouped matrix product, as defined by ``torch.nn.functional.grouped_mm``."""
    del out_dtype
    if offs is None or left.dim() == right.dim() == 3:
        product = left @ right
    else:
        bounds = [0, *offs.tolist()]
        spans = list(starmap(slice, pairwise(bounds)))
        if left.dim() == right.dim() == 2:  # groups of the summed dimension
            product = torch.stack([left[:, span] @ right[span] for span in spans])
        elif right.dim() == 3:  # groups of rows
            product = left.new_zeros(left.shape[0], right.shape[-1])
            for number, span in enumerate(spans):
                product[span] = left[span] @ right[number]
        else:  # groups of columns
            product = right.new_zeros(left.shape[-2], right.shape[1])
            for number, span in enumerate(spans):
                product[:, span] = left[number] @ right[:, span]
    return product if bias is None else product + bias


def _fake_quantized(  # ruff: ignore[too-many-positional-arguments] - the operator's
    x: Tensor, scale: Tensor, zero_point: Tensor, axis: int, low: int, high: int
) -> tuple[Tensor, Tensor]:
    """Return values rounded to a grid per channel, and the mask of those within its range."""
    shape = [1] * x.dim()
    shape[axis] = -1
    step, zero = scale.to(x.dtype).reshape(shape), zero_point.to(x.dtype).reshape(shape)
    rounded = (x / step + zero).round()
    return (rounded.clamp(low, high) - zero) * step, (rounded >= low) & (rounded <= high)


_DECOMPOSED: dict[str, Callable[..., object]] = {
    "aten._grouped_mm.default": _grouped_product,
    "aten.fake_quantize_per_channel_affine_cachemask.default": _fake_quantized,
}
