"""Distances and divergences between two posteriors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.checks import require_posteriors, require_same_tensors
from rebasin_core.posteriors.pairs import KL, WASSERSTEIN
from rebasin_core.tensors.optimal_transport import squared_distance

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior


def wasserstein_distance(first: Posterior, second: Posterior) -> float:
    r"""Return the 2-Wasserstein distance between two posteriors over the same parameters.

    - Single networks and diagonal Gaussians: $W_2^2 = \lVert m_0 - m_1 \rVert^2 + \lVert s_0 - s_1 \rVert^2$.
    - Other Gaussians with at most 10,000 random parameters: the Bures-Wasserstein distance,
      $W_2^2 = \lVert m_0 - m_1 \rVert^2 + \operatorname{tr}\big(\Sigma_0 + \Sigma_1
      - 2 (\Sigma_0^{1/2} \Sigma_1 \Sigma_0^{1/2})^{1/2}\big)$.
    - Sets of samples: exact optimal transport.
    - Other pairs: see `register_wasserstein`.

    Buffers are ignored.

    Args:
        first: A posterior.
        second: A posterior over the same parameters.

    Returns:
        The distance $W_2$, in units of the parameters.

    Raises:
        InvalidInputError: If the names or shapes of the parameters differ.
        NoClosedFormError: If no distance is registered for the pair of classes.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> q = PointPosterior({"w": torch.tensor([0.0, 0.0])})
        >>> wasserstein_distance(q, PointPosterior({"w": torch.tensor([3.0, 4.0])}))
        5.0
    """
    require_posteriors(first, second)
    require_same_tensors(first.shared_mean(), second.shared_mean(), "the second posterior")
    return WASSERSTEIN.require([first, second])(first, second)


def squared_moment_distance(first: Posterior, second: Posterior) -> float:
    r"""Return $\lVert m_0 - m_1 \rVert^2 + \lVert s_0 - s_1 \rVert^2$ of means $m$ and marginal stddevs $s$.

    Args:
        first: A posterior.
        second: A posterior over the same parameters.

    Returns:
        The squared 2-Wasserstein distance for single networks and diagonal Gaussians; a lower bound for others.
    """
    return squared_distance(first.mean, second.mean) + squared_distance(first.stddev, second.stddev)


def kl_divergence(first: Posterior, second: Posterior) -> float:
    r"""Return the KL divergence $\mathrm{KL}(q_0 \| q_1)$ between Gaussians, over all random parameters.

    For two diagonal, two Kronecker-factored or two low-rank Gaussians the structure of the covariances is used. Other
    pairs of Gaussians form dense covariance matrices, for at most 10,000 random parameters. For other pairs, see
    `register_kl`.

    Args:
        first: $q_0$, with a density.
        second: $q_1$, with a density over the same parameters.

    Returns:
        The divergence, in nats.

    Raises:
        InvalidInputError: If the parameters differ, or the divergence is not finite.
        NoClosedFormError: If no divergence is registered for the pair of classes.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> q = DiagonalGaussianPosterior({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        >>> kl_divergence(q, DiagonalGaussianPosterior({"w": torch.ones(1)}, {"w": torch.ones(1)}))
        0.5
    """
    require_posteriors(first, second)
    require_same_tensors(first.shared_mean(), second.shared_mean(), "the second posterior")
    divergence = KL.require([first, second])
    total = divergence(first.to(dtype=torch.float64), second.to(device=first.device, dtype=torch.float64))
    if not math.isfinite(total):
        message = (
            f"expected a finite KL divergence, got {total}; the first posterior must have a density with respect to "
            "the second (for Gaussians, positive standard deviations in both)"
        )
        raise InvalidInputError(message)
    return total
