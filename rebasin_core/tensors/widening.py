"""Conversion of large tensors to a wider dtype, one part at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

PART = 2**22
"""Number of entries of a part: 16 MiB in single precision."""


def wide_parts(
    tensor: Tensor,
    dtype: torch.dtype,
    *,
    dim: int | None = None,
    device: torch.device | None = None,
    copy: bool = False,
) -> Iterator[Tensor]:
    """Yield the parts of a tensor along one dimension, converted to a dtype.

    All parts are written to the same memory. If each had its own, a small result that the caller keeps could be
    allocated behind each part. In glibc before 2.38, the next part would then not fit in the memory of the last one,
    and the process would grow by the size of the whole converted tensor.

    Args:
        tensor: A tensor of any shape, dtype and strides.
        dtype: Dtype of the parts.
        dim: Dimension along which the tensor is cut; the longest if None.
        device: Device of the parts; that of the tensor if None.
        copy: Whether the caller changes the parts.

    Yields:
        Contiguous parts of at most `PART` entries, or of one slice along the dimension if that is more. The next part
        overwrites a part. Without a conversion or copy, the only part is the tensor.
    """
    target = tensor.device if device is None else device
    if tensor.dim() == 0 or not tensor.numel() or (tensor.dtype == dtype and tensor.device == target and not copy):
        yield tensor.to(device=target, dtype=dtype, copy=copy)
        return
    along = max(range(tensor.dim()), key=lambda each: tensor.shape[each]) if dim is None else dim
    length = tensor.shape[along]
    slices = min(length, max(1, PART * length // tensor.numel()))
    memory = torch.empty(slices * (tensor.numel() // length), dtype=dtype, device=target)
    for part in tensor.split(slices, dim=along):
        yield memory[: part.numel()].view(part.shape).copy_(part.to(target))
