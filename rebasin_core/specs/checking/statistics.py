"""Batch normalization with gradients of its running statistics, which torch does not provide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import torch
from torch.overrides import TorchFunctionMode
from typing_extensions import override

if TYPE_CHECKING:
    from torch import Tensor


@final
class DifferentiableStatistics(TorchFunctionMode):
    """Decomposes batch normalization in evaluation mode into differentiable operators."""

    @override
    def __torch_function__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> object:
        if func in _NORMALIZATIONS:
            given = dict(zip(_NORMALIZATIONS[func], args, strict=False)) | (kwargs or {})
            if not given.get("training") and given.get("running_mean") is not None:
                return _normalized(given)
        return func(*args, **(kwargs or {}))


_NORMALIZATIONS: dict[Any, tuple[str, ...]] = {
    torch.batch_norm: ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    torch.nn.functional.batch_norm: (
        "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
    ),
}  # fmt: skip


def _normalized(given: dict[str, Any]) -> Tensor:
    x: Tensor = given["input"]
    shape = (1, -1, *[1] * (x.dim() - 2))
    deviation = (given["running_var"] + given.get("eps", 1e-5)).sqrt()
    result: Tensor = (x - given["running_mean"].reshape(shape)) / deviation.reshape(shape)
    if given.get("weight") is not None:
        result *= given["weight"].reshape(shape)
    if given.get("bias") is not None:
        result += given["bias"].reshape(shape)
    return result
