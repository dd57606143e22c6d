"""Linear interpolation of named tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def interpolate(first: Mapping[str, Tensor], second: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    """Return ``(1 - t) * first + t * second`` for tensors by name.

    Args:
        first: Tensors at t = 0.
        second: Tensors at t = 1, with the same names and shapes.
        t: Interpolation coefficient, in [0, 1].

    Returns:
        New tensors, with device and dtype of ``first``.
    """
    return {name: torch.lerp(tensor, second[name].to(tensor), t) for name, tensor in first.items()}


def interpolate_buffers(first: Mapping[str, Tensor], second: Mapping[str, Tensor], t: float) -> dict[str, Tensor]:
    """Interpolate floating-point buffers linearly; copy integer buffers from the nearer endpoint.

    Interpolated batch-normalization statistics are in general not those of the interpolated network; see ``reset``.

    Args:
        first: Buffers at t = 0.
        second: Buffers at t = 1, with the same names and shapes.
        t: Interpolation coefficient, in [0, 1].

    Returns:
        New buffers, with device and dtype of ``first``.
    """
    return {
        name: torch.lerp(a, second[name].to(a), t)
        if a.is_floating_point()
        else (a if t <= 0.5 else second[name]).clone()
        for name, a in first.items()
    }
