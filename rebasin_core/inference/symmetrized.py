"""The permutation-invariant evidence lower bound: what symmetrising a posterior would add to it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rebasin_core.tensors.statistics import normal_log_density

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.symmetry.permutation import Permutation


def independent_log_prob(
    mean: Mapping[str, Tensor], stddev: Mapping[str, Tensor], parameters: Mapping[str, Tensor]
) -> Tensor:
    """Return the log density of independent Gaussians.

    Args:
        mean: By parameter name.
        stddev: The same names, positive.
        parameters: Where.

    Returns:
        A scalar in nats, differentiable.
    """
    terms = [normal_log_density((parameters[name] - mean[name]) / spread, spread) for name, spread in stddev.items()]
    return torch.stack(terms).sum()


def information_lower_bound(
    mean: Mapping[str, Tensor],
    stddev: Mapping[str, Tensor],
    sample: Mapping[str, Tensor],
    elements: Sequence[Permutation],
) -> Tensor:
    r"""Return an estimate of a lower bound of the information between a symmetrised sample and its group element.

    With $\theta \sim q$ and $g_1, \dots, g_M$ uniform,
    $\log q(\theta) - \log \frac{1}{M + 1} \big(q(\theta) + \sum_m q(g_m \theta)\big)$: at most $\log (M + 1)$.

    Args:
        mean: Of $q$, by parameter name.
        stddev: Of $q$, positive.
        sample: $\theta$, all parameters of the layout.
        elements: $g_1, \dots, g_M$.

    Returns:
        A scalar in nats, differentiable.
    """
    here = independent_log_prob(mean, stddev, sample)
    every = [here, *(independent_log_prob(mean, stddev, element.apply(sample)) for element in elements)]
    return here - (torch.stack(every).logsumexp(0) - math.log(len(every)))
