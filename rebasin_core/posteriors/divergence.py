"""Distances between posteriors, where they are known in closed form or can be solved exactly."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.full_gaussian import FullGaussianPosterior
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.posteriors.kronecker_gaussian import KroneckerGaussianPosterior
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior
from rebasin_core.posteriors.pairing import require_same_tensors
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.optimal_transport import squared_distance, squared_distances, transport_cost
from rebasin_core.tensors.statistics import gaussian_kl

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior


def wasserstein_distance(first: Posterior, second: Posterior) -> float:
    r"""Return the 2-Wasserstein distance between two posteriors, over their parameters.

    For points and independent Gaussians, in closed form,
    $W_2^2 = \lVert m_0 - m_1 \rVert^2 + \lVert s_0 - s_1 \rVert^2$; between sample sets by exact optimal transport;
    between other Gaussians of up to 10,000 random parameters by the formula of Bures, with $A_i^\top A_i = \Sigma_i$:
    $W_2^2 = \lVert m_0 - m_1 \rVert^2 + \operatorname{tr} \Sigma_0 + \operatorname{tr} \Sigma_1
    - 2 \lVert A_0 A_1^\top \rVert_*$.

    Args:
        first: A posterior.
        second: Another one with the same parameters: both sample sets, or neither.

    Returns:
        The distance, in units of the parameters.

    Raises:
        InvalidInputError: If the parameters differ, or the pair has no exact distance.

    References:
        M. Gelbrich (1990), "On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert
        spaces", Math. Nachr. 147.

    Example:
        >>> import torch
        >>> q = PointPosterior({"w": torch.tensor([0.0, 0.0])})
        >>> wasserstein_distance(q, PointPosterior({"w": torch.tensor([3.0, 4.0])}))
        5.0
    """
    require_same_tensors(first.mean, second.mean, "the second posterior")
    if isinstance(first, SamplesPosterior) and isinstance(second, SamplesPosterior):
        cost = squared_distances(first.samples, second.samples) + squared_distance(
            {n: t for n, t in first.mean.items() if n not in first.random_names}, second.mean
        )
        return math.sqrt(transport_cost(first.weights, second.weights, cost))
    if all(isinstance(q, DiagonalGaussianPosterior | PointPosterior) for q in (first, second)):
        return math.sqrt(squared_moment_distance(first, second))
    roots: list[torch.Tensor | None] = []
    names = [q.random_names for q in (first, second) if isinstance(q, AbstractGaussianPosterior)]
    for posterior in (first, second):
        if not isinstance(posterior, AbstractGaussianPosterior | PointPosterior) or set(names[0]) != set(names[-1]):
            message = (
                f"no exact 2-Wasserstein distance between {first.kind!r} and {second.kind!r}; expected points and "
                "Gaussians with the same random parameters, or two sets of samples"
            )
            raise InvalidInputError(message)
        roots.append(
            posterior.to(dtype=torch.float64).flat_root(names[0])
            if isinstance(posterior, AbstractGaussianPosterior)
            else None
        )
    squared = squared_distance(first.mean, second.mean)
    squared += sum(root.square().sum().item() for root in roots if root is not None)
    if roots[0] is not None and roots[1] is not None:
        squared -= 2 * torch.linalg.svdvals(roots[0] @ roots[1].T).sum().item()
    return math.sqrt(max(squared, 0.0))


def squared_moment_distance(first: Posterior, second: Posterior) -> float:
    r"""Return $\lVert m_0 - m_1 \rVert^2 + \lVert s_0 - s_1 \rVert^2$, of means and marginal standard deviations.

    Args:
        first: A posterior.
        second: Another one with the same parameters, of any kind.

    Returns:
        The squared 2-Wasserstein distance of points and of independent Gaussians; of any others a lower bound of it.
    """
    return squared_distance(first.mean, second.mean) + squared_distance(first.stddev, second.stddev)


def kl_divergence(first: Posterior, second: Posterior) -> float:
    r"""Return $\mathrm{KL}(q_0 \| q_1)$ between Gaussians, summed over all random parameters.

    Between two independent, two Kronecker-factored or two low-rank Gaussians it is computed within their structure; any
    other pair is compared by covariance matrices, for up to 10,000 random parameters.

    Args:
        first: $q_0$, with a density.
        second: $q_1$, with a density over the same parameters.

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
    for posterior in (first, second):
        if not isinstance(posterior, AbstractGaussianPosterior):
            message = f"expected two Gaussians, got {first.kind!r} and {second.kind!r}"
            raise InvalidInputError(message)
    total = _gaussian_divergence(first.to(dtype=torch.float64), second.to(device=first.device, dtype=torch.float64))
    if not math.isfinite(total):
        message = "the KL divergence is not finite; expected positive standard deviations in both posteriors"
        raise InvalidInputError(message)
    return total


def _gaussian_divergence(first: Posterior, second: Posterior) -> float:
    if isinstance(first, DiagonalGaussianPosterior) and isinstance(second, DiagonalGaussianPosterior):
        _require_same_random(first, second)
        moments = (first.mean, first.stddev, second.mean, second.stddev)
        return sum(gaussian_kl(*(m[name] for m in moments)).item() for name in first.random_names)
    if isinstance(first, KroneckerGaussianPosterior) and isinstance(second, KroneckerGaussianPosterior):
        _require_same_random(first, second)
        return _kronecker_kl(first, second)
    if (
        isinstance(first, LowRankGaussianPosterior)
        and isinstance(second, LowRankGaussianPosterior)
        and first.random_names == second.random_names
    ):
        return torch.distributions.kl_divergence(first.as_distribution(), second.as_distribution()).item()
    dense = [_dense(q, first) for q in (first, second)]
    return torch.distributions.kl_divergence(dense[0].as_distribution(), dense[1].as_distribution()).item()


def _require_same_random(first: AbstractGaussianPosterior, second: AbstractGaussianPosterior) -> None:
    if set(first.random_names) != set(second.random_names):
        differing = sorted(set(first.random_names) ^ set(second.random_names))
        message = f"{differing} are random in one posterior only, so the KL divergence is infinite"
        raise InvalidInputError(message)


def _kronecker_kl(first: KroneckerGaussianPosterior, second: KroneckerGaussianPosterior) -> float:
    r"""Return the divergence, parameter by parameter in the eigenbasis of the second.

    The variances of $q_0$ there are $(U_1 U_0^\top)^{\circ 2} S_0^2 (V_0 V_1^\top)^{\circ 2}$.
    """
    left, right = (first.left, second.left), (first.right, second.right)
    scales, means, total = (first.scale, second.scale), (first.mean, second.mean), 0.0
    for name in first.random_names:
        own, other = (scale[name].square() for scale in scales)
        spread = own
        if name in left[0]:
            mixed = (left[1][name] @ left[0][name].T).square()
            spread = mixed @ spread if name in right[0] else spread @ mixed.T
        if name in right[0]:
            spread @= (right[0][name].flatten(1) @ right[1][name].flatten(1).T).square()
        shift = second.in_eigenbasis(name, means[0][name] - means[1][name]).square()
        total += 0.5 * ((spread + shift) / other - 1 + other.log() - own.log()).sum().item()
    return total


def _dense(posterior: Posterior, order: Posterior) -> FullGaussianPosterior:
    """Return a Gaussian in dense form, its parameters in the order of another one's."""
    if not isinstance(posterior, AbstractGaussianPosterior) or not isinstance(order, AbstractGaussianPosterior):
        message = f"expected Gaussians, got {posterior.kind!r} and {order.kind!r}"
        raise InvalidInputError(message)
    _require_same_random(posterior, order)
    mean, root = posterior.mean, posterior.root()
    return FullGaussianPosterior({n: mean[n] for n in order.random_names}, {n: root[n] for n in order.random_names})
