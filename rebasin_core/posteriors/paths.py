"""Paths between two posteriors: one function for each kind of path.

Each function checks the pair and returns a path: a function from the interpolation coefficient t in [0, 1] to the
posterior at t. Work that does not depend on t (optimal transport, a rotation) is done once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import NoClosedFormError
from rebasin_core.posteriors.capabilities import AbstractCoupledPath
from rebasin_core.posteriors.checks import require_coefficient, require_posteriors, require_same_tensors
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.interpolation import interpolate, interpolate_buffers
from rebasin_core.posteriors.mixture import MixturePosterior
from rebasin_core.posteriors.pairs import GEODESIC
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.capabilities import PosteriorPath


def geodesic(first: Posterior, second: Posterior) -> PosteriorPath:
    r"""Return the 2-Wasserstein geodesic between two posteriors.

    It has constant speed: $W_2(q_0, q_t) = t\, W_2(q_0, q_1)$. Built in are the pairs of two points, of two independent
    Gaussians, of two dense Gaussians, and of two sets of the same number of equally weighted samples. For further pairs
    see `register_geodesic`.

    Args:
        first: The posterior at t = 0.
        second: The posterior at t = 1.

    Returns:
        A function of t in [0, 1]; its posteriors have noise that is compatible with that of the endpoints (common
        random numbers).

    Raises:
        InvalidInputError: If the two do not have the same tensors.
        NoClosedFormError: If no geodesic is registered for the pair.

    Examples:
        >>> import torch
        >>> q, r = (DiagonalGaussianPosterior({"w": torch.zeros(1)}, {"w": s * torch.ones(1)}) for s in (1, 3))
        >>> geodesic(q, r)(0.25).stddev["w"].item()
        1.5
    """
    _require_pair(first, second)
    return _in_range(GEODESIC.require([first, second])(first, second))


def mean_path(first: Posterior, second: Posterior) -> PosteriorPath:
    """Return the straight line between the means of two posteriors, as points.

    Args:
        first: The posterior at t = 0, of any kind.
        second: The posterior at t = 1, of any kind.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If the two do not have the same tensors.
    """
    require_posteriors(first, second)
    start = PointPosterior(first.mean, buffers=first.buffers)
    return geodesic(start, PointPosterior(second.mean, buffers=second.buffers))


def coupled_path(first: Posterior, second: Posterior) -> PosteriorPath:
    """Return the path within one kind on which samples of the two endpoints are coupled by their noise.

    Args:
        first: The posterior at t = 0, an `AbstractCoupledPath`.
        second: The posterior at t = 1, of the same class.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If the two do not have the same tensors.
        NoClosedFormError: If they are not of one class, or this class has no such path.
    """
    _require_pair(first, second)
    if not isinstance(first, AbstractCoupledPath) or not isinstance(second, type(first)):
        message = (
            f"no coupled path between posteriors of kind {first.kind!r} and {second.kind!r}; expected two posteriors "
            "of one class that is an `AbstractCoupledPath`. Use the path `moments` or `samples`"
        )
        raise NoClosedFormError(message)
    return _in_range(first.coupled_path(second))


def moment_path(first: Posterior, second: Posterior) -> PosteriorPath:
    """Return the path of independent Gaussians whose mean and standard deviation are linear in t.

    All correlations are dropped, at the endpoints too.

    Args:
        first: The posterior at t = 0, of any kind.
        second: The posterior at t = 1, of any kind.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If the two do not have the same tensors.
    """
    _require_pair(first, second)
    mean, end_mean = first.mean, second.mean
    stddev, end_stddev = first.stddev, second.stddev
    buffers, end_buffers = first.buffers, second.buffers

    def at(t: float) -> DiagonalGaussianPosterior:
        return DiagonalGaussianPosterior(
            interpolate(mean, end_mean, t),
            interpolate(stddev, end_stddev, t),
            buffers=interpolate_buffers(buffers, end_buffers, t),
        )

    return _in_range(at)


def displacement_path(first: Posterior, second: Posterior, *, num_samples: int = 32, seed: int = 0) -> PosteriorPath:
    """Return the displacement interpolation between samples of two posteriors.

    Optimal transport pairs the samples, and each pair moves on a straight line.

    Args:
        first: The posterior at t = 0, of any kind.
        second: The posterior at t = 1, of any kind.
        num_samples: The number of samples of each endpoint. A set of that many equally weighted samples is used as it
            is.
        seed: The seed of the samples, the same for both endpoints.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If the two do not have the same tensors.
    """
    _require_pair(first, second)
    return geodesic(_sampled(first, num_samples, seed), _sampled(second, num_samples, seed))


def mixture_path(first: Posterior, second: Posterior) -> PosteriorPath:
    """Return the path of the mixtures of two posteriors, with weights 1 - t and t.

    Its predictive loss never rises above the linear interpolation of the endpoint losses (Jensen's inequality).

    Args:
        first: The posterior at t = 0, of any kind.
        second: The posterior at t = 1, of any kind.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If the two do not have the same tensors.
    """
    _require_pair(first, second)

    def at(t: float) -> MixturePosterior:
        parts = [*_weighted(first, 1 - t), *_weighted(second, t)]
        weights = torch.tensor([weight for _, weight in parts])
        return MixturePosterior([component for component, _ in parts], weights=weights)

    return _in_range(at)


def _weighted(posterior: Posterior, weight: float) -> list[tuple[Posterior, float]]:
    """Return the components of a posterior with weights that sum to the given one; a mixture is flattened."""
    if isinstance(posterior, MixturePosterior):
        shares = posterior.weights.tolist()
        return [(q, weight * share) for q, share in zip(posterior.components, shares, strict=True)]
    return [(posterior, weight)]


def _sampled(posterior: Posterior, count: int, seed: int) -> SamplesPosterior:
    """Return samples of a posterior as a posterior."""
    if isinstance(posterior, SamplesPosterior) and posterior.num_samples == count and posterior.is_uniform:
        return posterior
    drawn = posterior.sample((count,), generator=torch.Generator().manual_seed(seed))
    buffers = posterior.buffers
    return SamplesPosterior(
        {name: tensor for name, tensor in drawn.items() if name not in buffers},
        sample_buffers={name: drawn[name] for name in buffers},
    )


def _require_pair(first: Posterior, second: Posterior) -> None:
    require_posteriors(first, second)
    require_same_tensors(first.shared_mean(), second.shared_mean(), "the second posterior")


def _in_range(path: PosteriorPath) -> PosteriorPath:
    """Return a path that refuses coefficients outside [0, 1]."""

    def at(t: float) -> Posterior:
        require_coefficient(t)
        return path(t)

    return at
