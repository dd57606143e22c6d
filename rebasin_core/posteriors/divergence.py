"""Distances between posteriors, where they are known in closed form or can be solved exactly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.pairing import require_same_tensors
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.statistics import gaussian_kl
from rebasin_core.tensors.transport import squared_distances, transport_cost

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior


def wasserstein_distance(first: Posterior, second: Posterior) -> float:
    r"""Return the 2-Wasserstein distance between two posteriors, over their parameters.

    For points and independent Gaussians, in closed form,
    $W_2^2 = \lVert m_0 - m_1 \rVert^2 + \lVert s_0 - s_1 \rVert^2$; between sample sets by exact optimal transport.

    Args:
        first: A posterior.
        second: Another one with the same parameters: both sample sets, or neither.

    Returns:
        The distance, in units of the parameters.

    Raises:
        InvalidInputError: If the parameters differ, or the pair has no exact distance.

    Example:
        >>> import torch
        >>> q = PointPosterior({"w": torch.tensor([0.0, 0.0])})
        >>> wasserstein_distance(q, PointPosterior({"w": torch.tensor([3.0, 4.0])}))
        5.0
    """
    require_same_tensors(first.mean, second.mean, "the second posterior")
    if isinstance(first, SamplesPosterior) and isinstance(second, SamplesPosterior):
        cost = squared_distances(first.samples, second.samples)
        return math.sqrt(transport_cost(first.weights, second.weights, cost))
    for posterior in (first, second):
        if not isinstance(posterior, DiagonalGaussianPosterior | PointPosterior):
            message = (
                f"no exact 2-Wasserstein distance between {first.kind!r} and {second.kind!r}; expected points and "
                "independent Gaussians, or two sets of samples"
            )
            raise InvalidInputError(message)
    squared = 0.0
    for one, other in ((first.mean, second.mean), (first.stddev, second.stddev)):
        squared += sum((one[name] - other[name]).double().square().sum().item() for name in one)
    return math.sqrt(squared)


def kl_divergence(first: DiagonalGaussianPosterior, second: DiagonalGaussianPosterior) -> float:
    r"""Return $\mathrm{KL}(q_0 \| q_1)$ between independent Gaussians, summed over all entries.

    Args:
        first: $q_0$, with positive standard deviations.
        second: $q_1$, with positive standard deviations and the same parameters.

    Returns:
        The divergence in nats.

    Raises:
        InvalidInputError: If the parameters differ, or the divergence is not finite.

    Example:
        >>> import torch
        >>> q = DiagonalGaussianPosterior({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        >>> kl_divergence(q, DiagonalGaussianPosterior({"w": torch.ones(1)}, {"w": torch.ones(1)}))
        0.5
    """
    require_same_tensors(first.mean, second.mean, "the second posterior")
    moments = (first.mean, first.stddev, second.mean, second.stddev)
    total = sum(gaussian_kl(*(m[name].double() for m in moments)).item() for name in first.mean)
    if not math.isfinite(total):
        message = "the KL divergence is not finite; expected positive standard deviations in both posteriors"
        raise InvalidInputError(message)
    return total
