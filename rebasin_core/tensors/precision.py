"""The precision of computations: half precision is widened to single precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype for sums over tensors of a dtype.

    Args:
        dtype: A floating-point dtype.

    Returns:
        float64 for float64, and float32 for all others.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in their working dtype.

    Args:
        tensors: Named tensors.

    Returns:
        Floating-point tensors in their `working_dtype`; other tensors unchanged.
    """
    return {name: t.to(working_dtype(t.dtype)) if t.is_floating_point() else t for name, t in tensors.items()}
