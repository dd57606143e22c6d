"""Choice of the device."""

from __future__ import annotations

import torch

from rebasin_core.errors import ConfigError


def choose_device(name: str) -> torch.device:
    """Return a device.

    Args:
        name: ``auto`` (CUDA if available, else the CPU), or the name of a PyTorch device.

    Returns:
        The device.

    Raises:
        ConfigError: If the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        message = f"the device {name!r} is not available ({reason}); expected `auto`, `cpu`, `cuda` or `cuda:<n>`"
        raise ConfigError(message) from error
    return device
