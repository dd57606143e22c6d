"""How much memory is free, and what it looks like when it is not enough."""

from __future__ import annotations

import os

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be had, on the CPU or a GPU.

    Args:
        error: What was raised.

    Returns:
        Whether a smaller piece of work may succeed.
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device.

    Args:
        device: A device.

    Returns:
        Bytes; where the system does not tell, two gigabytes are assumed.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2 * 2**30
