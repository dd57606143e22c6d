"""Standard normal noise and seeds from a random number generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def standard_normal(shape: Sequence[int], like: Tensor, generator: torch.Generator) -> Tensor:
    """Return standard normal noise.

    It is generated on the generator's device and then copied. A CPU generator therefore gives the same noise on all
    devices.

    Args:
        shape: Shape of the noise.
        like: Tensor whose device and dtype are used.
        generator: Random number generator.

    Returns:
        The noise.
    """
    noise = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=like.dtype)
    return noise.to(like.device)


def on_device(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a random number generator on a device, for noise that is not copied from another device.

    Args:
        generator: A generator; if it is on another device, one number is drawn from it as the seed of the new one.
        device: The device.

    Returns:
        The same generator if it is on the device, else a new one.
    """
    if generator.device.type == device.type:
        return generator
    return torch.Generator(device).manual_seed(random_seed(generator))


def random_seed(generator: torch.Generator) -> int:
    """Return a random seed, for noise that is generated repeatedly.

    Args:
        generator: Random number generator; one number is drawn from it.

    Returns:
        The seed, in [0, 2^62).
    """
    return int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
