"""Noise from a generator, on the device and in the dtype of other tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def standard_normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise.

    It is drawn on the generator's device and then moved, so that a CPU generator gives the same noise on every device.

    Args:
        shape: Of the noise.
        like: Sets its device and dtype.
        generator: The source of randomness.

    Returns:
        The noise.
    """
    noise = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=like.dtype)
    return noise.to(like.device)
