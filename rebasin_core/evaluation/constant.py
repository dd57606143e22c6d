"""Numerical maximum-likelihood estimate of constant outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_ITERATIONS = 200
# Enough to determine the mean of the targets to 0.7 % of their standard deviation.
_MAX_TARGETS = 20_000


def best_constant(log_prob: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Return the outputs, the same for all examples, that maximize the mean log likelihood.

    L-BFGS in float64, initialized at zero. Large datasets are subsampled to at least 20,000 equally spaced
    targets.

    Args:
        log_prob: Differentiable function from outputs ``[M, ...]`` and targets to log likelihoods ``[M]``.
        outputs: Outputs ``[N, ...]`` for at least one example; only their shape, dtype and device are used.
        targets: Targets of the data, ``[M, ...]``.

    Returns:
        Outputs ``[...]`` of one example; None if the result is not finite or the density cannot be differentiated.
    """
    used = targets[:: max(1, len(targets) // _MAX_TARGETS)]
    used = used.double() if used.is_floating_point() else used
    constant = torch.zeros(outputs.shape[1:], dtype=torch.float64, device=outputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = -log_prob(constant.expand(len(used), *constant.shape), used).mean()
            value.backward()
        return value.item()

    try:
        optimizer.step(loss)
    except RuntimeError:  # an operation without a derivative, or without support for float64
        return None
    return constant.detach().to(outputs.dtype) if bool(constant.isfinite().all()) else None
