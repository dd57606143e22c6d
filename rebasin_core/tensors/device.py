"""Choice of a device, and copies to it."""

from __future__ import annotations

import torch
from torch import Tensor

from rebasin_core.errors import ConfigError

CPU = torch.device("cpu")
"""The CPU."""


def choose_device(name: str | torch.device) -> torch.device:
    """Return a device.

    Args:
        name: ``auto`` (CUDA if available, else the CPU), or a PyTorch device or its name.

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
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        message = f"the device {str(name)!r} is not available ({reason}); expected `auto`, `cpu`, `cuda` or `cuda:<n>`"
        raise ConfigError(message) from error
    return device


def select(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """Return some entries along a dimension, on the device of the tensor and in any dtype.

    Args:
        tensor: Any tensor.
        dim: The dimension.
        index: ``[n]``, on any device.

    Returns:
        A new tensor on the device of the tensor.
    """
    return indexable(tensor).index_select(dim, index.to(tensor.device)).view(tensor.dtype)


def indexable(tensor: Tensor) -> Tensor:
    """Return a tensor that all devices can index: 8-bit floating-point numbers as bytes.

    Args:
        tensor: Any tensor.

    Returns:
        A view; ``view`` with the dtype of the tensor reverses it.
    """
    is_float8 = tensor.is_floating_point() and tensor.element_size() == 1
    return tensor.view(torch.uint8) if is_float8 else tensor
