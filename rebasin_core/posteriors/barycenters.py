"""Barycenters of posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.posteriors.averaging import TensorWeights
from rebasin_core.posteriors.checks import require_posteriors, require_same_tensors
from rebasin_core.posteriors.diagonal_gaussian import weighted_moments
from rebasin_core.posteriors.pairs import BARYCENTER
from rebasin_core.tensors.arguments import require_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.posteriors.averaging import Weights
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior


def barycenter(posteriors: Sequence[Posterior], weights: Weights | None = None) -> Posterior:
    r"""Return the 2-Wasserstein barycenter $\operatorname*{argmin}_q \sum_k w_k\, W_2^2(q, q_k)$ of posteriors.

    - Single networks: the weighted mean.
    - Diagonal Gaussians and single networks: the weighted means of the means and of the *standard deviations*.
    - Dense Gaussians: the fixed-point iteration of Alvarez-Esteban et al., on roots of the covariances.
    - Sets of the same number of equally weighted samples: the fixed-point iteration with free support, with optimal
      assignment of the samples (a local minimum).
    - Other representations: see `register_barycenter`; `moment_barycenter` averages the moments of any posteriors.

    Buffers are averaged with the same weights; integer buffers are those of the first posterior.

    Args:
        posteriors: Posteriors over the same tensors, at least one.
        weights: One weight per posterior, nonnegative, normalized to sum 1; equal if None. For single networks and
            diagonal Gaussians also a mapping from patterns of tensor names to such weights.

    Returns:
        The barycenter, on the device of the first posterior.

    Raises:
        InvalidInputError: If no posterior is given, their tensors differ, or weights do not fit.
        NoClosedFormError: If no barycenter is registered for these classes.

    References:
        P. Alvarez-Esteban et al. (2016), "A fixed-point approach to barycenters in Wasserstein space", J. Math. Anal.
        Appl. 441, theorem 4.2; M. Cuturi, A. Doucet (2014), "Fast computation of Wasserstein barycenters", ICML,
        algorithm 2 (free supports).

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> q = DiagonalGaussianPosterior({"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])})
        >>> r = DiagonalGaussianPosterior({"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])})
        >>> center = barycenter([q, r])
        >>> center.mean["w"].item(), center.stddev["w"].item()
        (0.5, 2.0)
    """
    checked = _checked(posteriors, weights)
    return BARYCENTER.require(posteriors)(posteriors, checked)


def moment_barycenter(posteriors: Sequence[Posterior], weights: Weights | None = None) -> DiagonalGaussianPosterior:
    """Return the diagonal Gaussian with the weighted means of the means and of the standard deviations.

    For diagonal Gaussians and single networks it is the 2-Wasserstein barycenter. For other posteriors it is an
    approximation that ignores correlations and higher moments.

    Args:
        posteriors: Posteriors over the same tensors, at least one, with any representations.
        weights: One weight per posterior, or a mapping from patterns of tensor names to such weights; equal if None.

    Returns:
        The diagonal Gaussian, on the device of the first posterior.

    Raises:
        InvalidInputError: If no posterior is given, their tensors differ, or weights do not fit.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior, SamplesPosterior
        >>> samples = SamplesPosterior({"w": torch.tensor([[1.0], [5.0]])})
        >>> center = moment_barycenter([PointPosterior({"w": torch.tensor([0.0])}), samples])
        >>> center.mean["w"].item(), center.stddev["w"].item()
        (1.5, 1.0)
    """
    return weighted_moments(posteriors, _checked(posteriors, weights))


def barycenter_or_moments(posteriors: Sequence[Posterior], weights: Weights | None = None) -> tuple[Posterior, bool]:
    """Return the 2-Wasserstein barycenter, or the moment barycenter if none is registered.

    Args:
        posteriors: Posteriors over the same tensors, at least one.
        weights: As in `barycenter`.

    Returns:
        The posterior, and whether it is the 2-Wasserstein barycenter.

    Raises:
        InvalidInputError: If no posterior is given, their tensors differ, or weights do not fit.
    """
    try:
        return barycenter(posteriors, weights), True
    except NoClosedFormError:
        return moment_barycenter(posteriors, weights), False


def _checked(posteriors: Sequence[Posterior], weights: Weights | None) -> TensorWeights:
    """Return the weights; raise unless there are posteriors and all have the same tensors."""
    require_sequence(posteriors, "several posteriors")
    if not len(posteriors):
        message = "expected at least one posterior, got none"
        raise InvalidInputError(message)
    require_posteriors(*posteriors)
    first = posteriors[0]
    for other in posteriors[1:]:
        require_same_tensors(first.shared_mean(), other.shared_mean(), "a posterior")
        require_same_tensors(first.buffers, other.buffers, "the buffers of a posterior")
    return TensorWeights(weights, len(posteriors))
