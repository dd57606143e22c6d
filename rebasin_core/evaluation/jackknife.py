"""Jackknife (leave-one-out) estimates of bias and standard error of averages over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Minimum number of contrasts per example, and of contrasts in total: 1024 values estimate a standard deviation to
# within 2 %, and eight per example help if a few examples contribute most of the error.
_MIN_CONTRASTS, _MIN_VALUES = 8, 1024


@final
@dataclass(frozen=True, slots=True)
class LogMeanJackknife:
    r"""Jackknife of the negative log of a mean likelihood over n units (samples or antithetic pairs).

    Attributes:
        values: ``[N]``: $L = -\log \frac1n \sum_s p_s$.
        pseudo_values: ``[n, N]``: $n L - (n - 1) L_{-s}$, where $L_{-s}$ omits unit s. Their mean over units is $L$
            without the bias of order 1/n, and the standard error of that mean is the standard error of $L$.
        concentration: ``[N]``: $\sum_s p_s^2 / (\sum_s p_s)^2$, the inverse of the effective number of units.

    References:
        M. Quenouille (1956), "Notes on bias in estimation", Biometrika 43; J. Tukey (1958), "Bias and confidence in
        not-quite large samples", Annals of Mathematical Statistics 29.
    """

    values: Tensor
    pseudo_values: Tensor
    concentration: Tensor

    @classmethod
    def of(cls, logs: Tensor) -> LogMeanJackknife:
        """Return the jackknife of log likelihoods.

        Args:
            logs: ``[n, N]``: log likelihoods of n units for N examples.

        Returns:
            The jackknife; for n = 1, the pseudo-values are the values.
        """
        count = len(logs)
        total = torch.logsumexp(logs, 0)
        values = math.log(count) - total
        shares = torch.exp(logs - total)
        concentration = shares.square().sum(0)
        if count == 1:
            return cls(values, values.unsqueeze(0), concentration)
        # For the largest share p, 1 - p would lose all digits to cancellation: sum the other shares instead.
        largest = shares.max(0).indices.unsqueeze(0)
        others = shares.scatter(0, largest, 0.0).sum(0).clamp_min(torch.finfo(shares.dtype).tiny)
        rest = torch.log1p(shares.scatter(0, largest, 0.0).neg_()).scatter_(0, largest, others.log().unsqueeze(0))
        without_unit = math.log(count - 1) - total - rest
        return cls(values, count * values - (count - 1) * without_unit, concentration)


def influence(pseudo_values: Tensor, *, independent: bool, contrasts: int | None = None) -> Tensor:
    """Return centered values whose standard error is that of the mean pseudo-value over units and examples.

    Args:
        pseudo_values: ``[n, N]``: pseudo-values of n independent units for N examples.
        independent: Whether noise is independent across examples.
        contrasts: Number of contrasts of each example's units, for independent noise; if None, enough for an error
            that is accurate to about 2 %.

    Returns:
        ``[n]``, or ``[contrasts * N]`` for independent noise; their mean is zero in expectation.
    """
    count, examples = pseudo_values.shape
    centered = pseudo_values - pseudo_values.mean(0)
    if not independent or count == 1:
        return centered.mean(dim=1)
    # Each contrast weights the units by a cosine (mean 0, mean square 1). Its expected square, scaled, is the variance
    # of the example's mean, and different contrasts are uncorrelated.
    contrasts = min(count - 1, contrasts or max(_MIN_CONTRASTS, math.ceil(_MIN_VALUES / examples)))
    order = torch.arange(1, contrasts + 1)
    angle = math.pi / count * torch.outer(order, torch.arange(count) + 0.5)
    weights = math.sqrt(2) * torch.cos(angle).to(centered)
    return math.sqrt(contrasts) / count * (weights @ centered).flatten()
