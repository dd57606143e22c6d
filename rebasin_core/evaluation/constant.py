"""The best constant outputs for given targets, found numerically."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_ITERATIONS = 200
# Targets beyond this number change a constant by less than its error from the data.
_MOST_TARGETS = 20_000


def best_constant(log_prob: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor | None:
    """Return the outputs, the same for all examples, with the largest mean log likelihood.

    Args:
        log_prob: Log likelihoods ``[M]`` of targets, given outputs ``[M, ...]``; differentiable.
        outputs: Outputs for at least one example, whose shape, dtype and device are taken: ``[N, ...]``.
        targets: Targets of the data, ``[M, ...]``; evenly spaced ones if there are very many.

    Returns:
        ``[...]``, by L-BFGS in float64 from zero; None if that did not lead to finite outputs, or the density cannot be
        differentiated.
    """
    kept = targets[:: max(1, len(targets) // _MOST_TARGETS)]
    kept = kept.double() if kept.is_floating_point() else kept
    found = torch.zeros(outputs.shape[1:], dtype=torch.float64, device=outputs.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            value = -log_prob(found.expand(len(kept), *found.shape), kept).mean()
            value.backward()
        return value.item()

    try:
        optimizer.step(loss)
    except RuntimeError:  # an operation without a derivative, or for one dtype only
        return None
    return found.detach().to(outputs.dtype) if bool(found.isfinite().all()) else None
