"""Paths between two posteriors.

Each function validates the pair and returns a path: a function from the interpolation coefficient t in [0, 1] to the
posterior at t. Computations that do not depend on t (optimal transport, rotations) run once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.assignment import solve_assignment
from rebasin_core.errors import NoClosedFormError
from rebasin_core.posteriors.capabilities import AbstractCoupledPath
from rebasin_core.posteriors.checks import require_coefficient, require_posteriors, require_same_tensors
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.posteriors.interpolation import interpolate, interpolate_buffers
from rebasin_core.posteriors.mixture import MixturePosterior
from rebasin_core.posteriors.pairs import GEODESIC
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.optimal_transport import squared_distances

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.capabilities import PosteriorPath


def geodesic(first: Posterior, second: Posterior) -> PosteriorPath:
    r"""Return the 2-Wasserstein geodesic between two posteriors.

    The geodesic has constant speed: $W_2(q_0, q_t) = t\, W_2(q_0, q_1)$. It is available for two single networks, two
    diagonal Gaussians, two dense Gaussians, and two sets of the same number of equally weighted samples. For other
    pairs, see `register_geodesic`.

    Args:
        first: Posterior $q_0$ at t = 0.
        second: Posterior $q_1$ at t = 1, over the same tensors.

    Returns:
        A function of t in [0, 1]. All its posteriors accept the same noise (common random numbers).

    Raises:
        InvalidInputError: If names or shapes of the tensors differ.
        NoClosedFormError: If no geodesic is registered for the pair of classes.

    Examples:
        >>> import torch
        >>> q, r = (DiagonalGaussianPosterior({"w": torch.zeros(1)}, {"w": s * torch.ones(1)}) for s in (1, 3))
        >>> geodesic(q, r)(0.25).stddev["w"].item()
        1.5
    """
    _require_pair(first, second)
    return _in_range(GEODESIC.require([first, second])(first, second))


def mean_path(first: Posterior, second: Posterior) -> PosteriorPath:
    """Return the linear interpolation of the means of two posteriors, as single networks.

    Args:
        first: Posterior whose mean is at t = 0.
        second: Posterior whose mean is at t = 1, over the same tensors.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If names or shapes of the tensors differ.
    """
    require_posteriors(first, second)
    start = PointPosterior(first.mean, buffers=first.buffers)
    return geodesic(start, PointPosterior(second.mean, buffers=second.buffers))


def coupled_path(first: Posterior, second: Posterior) -> PosteriorPath:
    """Return the interpolation of coupled noise: samples of the endpoints with the same noise move linearly in t.

    All points on the path have the class of the endpoints.

    Args:
        first: Posterior at t = 0, of a class that implements `AbstractCoupledPath`.
        second: Posterior at t = 1, of the same class and over the same tensors.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If names or shapes of the tensors differ.
        NoClosedFormError: If the classes differ, or the class has no such path.
    """
    _require_pair(first, second)
    if not isinstance(first, AbstractCoupledPath) or not isinstance(second, type(first)):
        message = (
            "expected two posteriors of the same class, which implements `AbstractCoupledPath`, got no coupled path "
            f"between posteriors of kind {first.kind!r} and {second.kind!r}; use the path `moments` or `samples`"
        )
        raise NoClosedFormError(message)
    return _in_range(first.coupled_path(second))


def moment_path(first: Posterior, second: Posterior) -> PosteriorPath:
    """Return the path of diagonal Gaussians whose mean and standard deviation are linear in t.

    It is the 2-Wasserstein geodesic between the diagonal Gaussians with the moments of the two posteriors. Correlations
    are ignored, also at t = 0 and t = 1.

    Args:
        first: Posterior whose moments are those at t = 0.
        second: Posterior whose moments are those at t = 1, over the same tensors.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If names or shapes of the tensors differ.
    """
    _require_pair(first, second)
    means = first.mean, second.mean
    stddevs = first.stddev, second.stddev
    buffers = first.buffers, second.buffers

    def at(t: float) -> DiagonalGaussianPosterior:
        return DiagonalGaussianPosterior(
            interpolate(*means, t), interpolate(*stddevs, t), buffers=interpolate_buffers(*buffers, t)
        )

    return _in_range(at)


def displacement_path(first: Posterior, second: Posterior, *, num_samples: int = 32, seed: int = 0) -> PosteriorPath:
    """Return the displacement interpolation between samples of two posteriors.

    Optimal transport pairs the samples, and each pair is interpolated linearly (McCann).

    Args:
        first: Posterior at t = 0.
        second: Posterior at t = 1, over the same tensors.
        num_samples: Number of posterior samples of each endpoint, default 32. An endpoint that consists of this number
            of equally weighted samples is used unchanged.
        seed: Seed of the samples, the same for both endpoints.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If names or shapes of the tensors differ.
    """
    _require_pair(first, second)
    return geodesic(_sampled(first, num_samples, seed), _sampled(second, num_samples, seed))


def mixture_path(first: Posterior, second: Posterior) -> PosteriorPath:
    """Return the path of the mixtures of two posteriors, with weights 1 - t and t.

    By Jensen's inequality, its predictive loss is at most the linear interpolation of the endpoint losses.

    Args:
        first: Posterior at t = 0.
        second: Posterior at t = 1, over the same tensors.

    Returns:
        A function of t in [0, 1].

    Raises:
        InvalidInputError: If names or shapes of the tensors differ.
    """
    _require_pair(first, second)

    def at(t: float) -> MixturePosterior:
        parts = [*_weighted(first, 1 - t), *_weighted(second, t)]
        weights = torch.tensor([weight for _, weight in parts])
        return MixturePosterior([component for component, _ in parts], weights=weights)

    return _in_range(at)


def coupled_samples(posteriors: Sequence[Posterior], num_samples: int, *, seed: int = 0) -> list[SamplesPosterior]:
    """Return samples of several posteriors that belong together: the k-th samples of all can be combined linearly.

    Gaussians of one class get the same noise (common random numbers). The samples of others are assigned to those of
    the first by optimal transport.

    Args:
        posteriors: Posteriors over the same tensors, at least one.
        num_samples: Number of samples of each, at least 1.
        seed: Seed of the samples, the same for all.

    Returns:
        The samples of each posterior.

    Raises:
        InvalidInputError: If the number of samples is not positive.
    """
    drawn = [_sampled(posterior, num_samples, seed) for posterior in posteriors]
    kinds = {posterior.kind for posterior in posteriors}
    if len(kinds) == 1 and isinstance(posteriors[0], AbstractGaussianPosterior):
        return drawn
    first = drawn[0].samples
    found = [drawn[0]]
    for samples in drawn[1:]:
        # The parameters and the buffers of a sample stay together.
        every = {**samples.samples, **samples.sample_buffers}
        order = solve_assignment(-squared_distances(first, samples.samples))
        ordered = {name: tensor[order.to(tensor.device)] for name, tensor in every.items()}
        own = {name: ordered[name] for name in samples.samples}
        buffers = {name: ordered[name] for name in samples.sample_buffers}
        found.append(SamplesPosterior(own, sample_buffers=buffers, fixed=samples.fixed, buffers=samples.shared_buffers))
    return found


def _weighted(posterior: Posterior, weight: float) -> list[tuple[Posterior, float]]:
    """Return the components of a posterior with weights that sum to ``weight``; one component unless a mixture."""
    if isinstance(posterior, MixturePosterior):
        shares = posterior.weights.tolist()
        return [(q, weight * share) for q, share in zip(posterior.components, shares, strict=True)]
    return [(posterior, weight)]


def _sampled(posterior: Posterior, count: int, seed: int) -> SamplesPosterior:
    """Return the empirical distribution of ``count`` samples of a posterior."""
    if isinstance(posterior, SamplesPosterior) and posterior.num_samples == count and posterior.is_uniform:
        return posterior
    return SamplesPosterior.from_posterior(posterior, count, generator=torch.Generator().manual_seed(seed))


def _require_pair(first: Posterior, second: Posterior) -> None:
    require_posteriors(first, second)
    require_same_tensors(first.shared_mean(), second.shared_mean(), "the second posterior")


def _in_range(path: PosteriorPath) -> PosteriorPath:
    """Return a path that raises for coefficients outside [0, 1]."""

    def at(t: float) -> Posterior:
        require_coefficient(t)
        return path(t)

    return at
