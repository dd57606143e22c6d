"""The precision in which sums are taken: half precision is widened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return double for double, and single for everything else.

    Args:
        dtype: A floating dtype.

    Returns:
        A dtype fit for sums.
    """
    return torch.float64 if dtype == torch.float64 else torch.float32


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors in a precision fit for sums.

    Args:
        tensors: Named tensors.

    Returns:
        Floating tensors in their `working_dtype`; others as they are.
    """
    return {name: t.to(working_dtype(t.dtype)) if t.is_floating_point() else t for name, t in tensors.items()}
