"""Leave-one-out (jackknife) statistics of averages over samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Contrasts of an example's samples, and numbers in all, from which a Monte Carlo error is estimated: 1024 numbers
# know a standard deviation to 2 %, and where a few examples make the error, eight contrasts of each are some more.
_CONTRASTS, _ENOUGH = 8, 1024


@final
@dataclass(frozen=True, slots=True)
class LogMeanJackknife:
    r"""The negative log of a mean of likelihoods, and what it is without each of n units (samples, or pairs).

    Attributes:
        values: ``[N]``: $-\log \frac1n \sum_s p_s$.
        pseudo_values: ``[n, N]``: $n L - (n - 1) L_{-s}$, for the value $L$, and $L_{-s}$ without unit s. Their mean is
            the value without its bias of order 1/n, and their standard error that of the value.
        concentration: ``[N]``: $\sum_s p_s^2 / (\sum_s p_s)^2$, one over the effective number of units.

    References:
        M. Quenouille (1956), "Notes on bias in estimation", Biometrika 43; J. Tukey (1958), "Bias and confidence in
        not-quite large samples", Annals of Mathematical Statistics 29.
    """

    values: Tensor
    pseudo_values: Tensor
    concentration: Tensor

    @classmethod
    def of(cls, logs: Tensor) -> LogMeanJackknife:
        """Return the statistics.

        Args:
            logs: ``[n, N]``: log likelihoods of n units.

        Returns:
            The statistics; of one unit, the pseudo-values are the values.
        """
        count = len(logs)
        total = torch.logsumexp(logs, 0)
        values = math.log(count) - total
        shares = torch.exp(logs - total)
        concentration = shares.square().sum(0)
        if count == 1:
            return cls(values, values.unsqueeze(0), concentration)
        # Without the largest, by summing the others: the difference of nearly equal numbers would have no digits.
        largest = shares.max(0)
        places = largest.indices.unsqueeze(0)
        others = shares.scatter(0, places, 0.0).sum(0).clamp_min(torch.finfo(shares.dtype).tiny)
        rest = torch.log1p(shares.scatter(0, places, 0.0).neg_()).scatter_(0, places, others.log().unsqueeze(0))
        # L without s is  log(n - 1) - total - rest.
        left_out = math.log(count - 1) - total - rest
        return cls(values, count * values - (count - 1) * left_out, concentration)


def influence(pseudo_values: Tensor, *, independent: bool, contrasts: int | None = None) -> Tensor:
    """Return numbers whose mean has the standard error of the mean of pseudo-values over units and examples.

    Args:
        pseudo_values: ``[n, N]``: of n independent units for N examples.
        independent: Whether the noise of one example has nothing to do with that of another.
        contrasts: If so: the number of contrasts of each example's units; as many as suffice if not given.

    Returns:
        ``[n]``, or for independent noise ``[contrasts * N]``; of mean zero.
    """
    count, examples = pseudo_values.shape
    centred = pseudo_values - pseudo_values.mean(0)
    if not independent or count == 1:
        return centred.mean(dim=1)
    # Contrasts have weights of mean zero and mean square one (cosines): each has the variance of the example's mean,
    # and none is correlated with another.
    contrasts = min(count - 1, contrasts or max(_CONTRASTS, math.ceil(_ENOUGH / examples)))
    order = torch.arange(1, contrasts + 1)
    angle = math.pi / count * torch.outer(order, torch.arange(count) + 0.5)
    weights = math.sqrt(2) * torch.cos(angle).to(centred)
    return math.sqrt(contrasts) / count * (weights @ centred).flatten()
