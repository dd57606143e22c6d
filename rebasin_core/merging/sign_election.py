"""Sign election and disjoint merging, the last two steps of TIES."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def elected_mean(differences: Tensor, weights: Tensor) -> Tensor:
    r"""Return the weighted means of the differences that have the elected sign.

    The elected sign of an entry is $\gamma = \operatorname{sgn} \sum_k w_k \tau_k$. The mean is over the networks with
    $\operatorname{sgn} \tau_k = \gamma$, which excludes entries that were trimmed to zero.

    Args:
        differences: ``[K, n]``: differences $\tau_k$ of the networks from the base.
        weights: ``[K]``, nonnegative.

    Returns:
        ``[n]``; zero where no network has the elected sign, or the weighted sum is zero.
    """
    weighted = weights.unsqueeze(1) * differences
    elected = weighted.sum(0).sign()
    agreeing = (differences.sign() == elected) & (elected != 0)
    total = (weighted * agreeing).sum(0)
    divisor = weights @ agreeing.to(weights.dtype)
    return torch.where(divisor > 0, total / divisor.clamp_min(torch.finfo(divisor.dtype).tiny), 0.0)
