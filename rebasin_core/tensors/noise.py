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


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a source of randomness on a device, so that noise need not be moved there.

    Args:
        generator: The source; if it is elsewhere, one number is drawn from it, as the seed of the other.
        device: Where the noise is needed.

    Returns:
        The same generator if it is there already, else a new one.
    """
    if generator.device.type == device.type:
        return generator
    return torch.Generator(device).manual_seed(drawn_seed(generator))


def drawn_seed(generator: torch.Generator) -> int:
    """Return a random seed, for noise that is generated several times from its beginning.

    Args:
        generator: Random number generator; one number is drawn from it.

    Returns:
        The seed, in [0, 2^62).
    """
    return int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
