"""Whether matrix products in bfloat16 are faster than in single precision, measured once for each device."""

from __future__ import annotations

from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

_SIZE = 512
_REPETITIONS = 5
# A smaller factor is not worth the lower precision.
_WORTHWHILE = 1.2


@cache
def is_bfloat16_faster(device: torch.device) -> bool:
    """Return whether a linear layer is at least 1.2 times faster with autocast to bfloat16.

    Processors without instructions for bfloat16 emulate it and are several times slower. A few products are timed,
    once for each device.

    Args:
        device: The device.

    Returns:
        Whether it is faster.
    """
    inputs = torch.randn(_SIZE, _SIZE, device=device)
    weight = torch.randn(_SIZE, _SIZE, device=device)
    with torch.no_grad():
        full = _seconds(inputs, weight)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            half = _seconds(inputs, weight)
    return _WORTHWHILE * half < full


def _seconds(inputs: Tensor, weight: Tensor) -> float:
    """Return the minimum time of a product."""
    times: list[float] = []
    for _ in range(_REPETITIONS):
        start = perf_counter()
        float(torch.nn.functional.linear(inputs, weight)[0, 0])  # waits for the device
        times.append(perf_counter() - start)
    return min(times)
