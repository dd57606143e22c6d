"""Free memory of devices, and errors raised when it is insufficient."""

from __future__ import annotations

import os

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error reports that memory could not be allocated, on the CPU or a GPU.

    Args:
        error: The exception.

    Returns:
        Whether memory was insufficient; a smaller batch may succeed.
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def total_memory(device: torch.device) -> int:
    """Return the memory of a device, whether or not it is used.

    Args:
        device: The device.

    Returns:
        Memory in bytes; 2 GiB if the system does not report it.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2 * 2**30


def free_memory(device: torch.device) -> int:
    """Return the free memory of a device.

    Args:
        device: The device.

    Returns:
        Free memory in bytes; 2 GiB if the system does not report it.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2 * 2**30
