"""Sign election and disjoint merging, the last two steps of TIES."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def elected_mean_(differences: Tensor, weights: Tensor) -> Tensor:
    r"""Return the weighted means of the differences that have the elected sign.

    The elected sign of an entry is $\gamma = \operatorname{sgn} \sum_k w_k \tau_k$. The mean is over the networks with
    $\operatorname{sgn} \tau_k = \gamma$, which excludes entries that were trimmed to zero.

    Args:
        differences: ``[K, n]``: differences $\tau_k$ of the networks from the base; overwritten.
        weights: ``[K]``, nonnegative.

    Returns:
        ``[n]``; zero where no network has the elected sign, or the weighted sum is zero.
    """
    weighted = differences.mul_(weights.unsqueeze(1))
    elected = weighted.sum(0).sign_()
    agreeing = (weighted * elected > 0).to(weights.dtype)
    divisor = weights @ agreeing
    # Without an agreeing network, the sum is zero.
    return weighted.mul_(agreeing).sum(0).div_(divisor.clamp_min_(torch.finfo(divisor.dtype).tiny))
