"""Linear interpolation of named tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def interpolate(first: Mapping[str, Tensor], second: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    """Return the tensors at t on the straight line between two endpoints.

    Args:
        first: The tensors at t = 0.
        second: The tensors at t = 1, of the same names and shapes.
        t: The interpolation coefficient, in [0, 1].

    Returns:
        New tensors.
    """
    return {name: torch.lerp(tensor, second[name].to(tensor), t) for name, tensor in first.items()}


def interpolate_buffers(first: Mapping[str, Tensor], second: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    """Return the buffers at t between two endpoints.

    Args:
        first: The buffers at t = 0.
        second: The buffers at t = 1.
        t: The interpolation coefficient, in [0, 1].

    Returns:
        Floating buffers are interpolated linearly (normalization statistics may need a reset afterwards); integer
        buffers are copied from the nearer endpoint.
    """
    return {
        name: torch.lerp(a, second[name].to(a), t)
        if a.is_floating_point()
        else (a if t <= 0.5 else second[name]).clone()
        for name, a in first.items()
    }
