"""Barycenters of several posteriors: checks, and the function registered for their common class."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.posteriors.averaging import TensorWeights
from rebasin_core.posteriors.checks import require_posteriors, require_same_tensors
from rebasin_core.posteriors.diagonal_gaussian import weighted_moments
from rebasin_core.posteriors.pairs import BARYCENTER
from rebasin_core.tensors.kinds import require_several

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.posteriors.averaging import Weights
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior


def barycenter(posteriors: Sequence[Posterior], weights: Weights | None = None) -> Posterior:
    r"""Return the 2-Wasserstein barycenter $\operatorname*{argmin}_q \sum_k w_k\, W_2^2(q, q_k)$ of posteriors.

    - Points: the weighted mean.
    - Independent Gaussians, and points among them: the weighted means of means and of *standard deviations*.
    - Dense Gaussians: the fixed point of Alvarez-Esteban et al., on roots of the covariances.
    - Sets of the same number of equally weighted samples: the fixed point on free supports, with samples assigned
      optimally.
    - Further kinds: see `register_barycenter`. `moment_barycenter` averages the moments of any posteriors.

    Weights that differ between tensors are for points and independent Gaussians, whose entries are independent.

    Args:
        posteriors: At least one, over the same tensors.
        weights: See `Weights`; equal if not given. Buffers are averaged too; integer buffers are those of the first.

    Returns:
        The barycenter, on the device of the first.

    Raises:
        InvalidInputError: If no posterior is given, their tensors differ, or weights do not fit.
        NoClosedFormError: If no barycenter is registered for posteriors of these kinds.

    References:
        P. Alvarez-Esteban et al. (2016), "A fixed-point approach to barycenters in Wasserstein space", J. Math. Anal.
        Appl. 441, theorem 4.2; M. Cuturi, A. Doucet (2014), "Fast computation of Wasserstein barycenters", ICML,
        algorithm 2 (free supports).

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> q = DiagonalGaussianPosterior({"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])})
        >>> r = DiagonalGaussianPosterior({"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])})
        >>> middle = barycenter([q, r])
        >>> middle.mean["w"].item(), middle.stddev["w"].item()
        (0.5, 2.0)
    """
    checked = _checked(posteriors, weights)
    return BARYCENTER.require(posteriors)(posteriors, checked)


def moment_barycenter(posteriors: Sequence[Posterior], weights: Weights | None = None) -> DiagonalGaussianPosterior:
    """Return the independent Gaussian with the weighted means of the means and of the standard deviations.

    For independent Gaussians and points it is the 2-Wasserstein barycenter. For all others it is an approximation that
    drops correlations and the shapes of the distributions.

    Args:
        posteriors: At least one, over the same tensors, of any kinds.
        weights: As for `barycenter`.

    Returns:
        The independent Gaussian, on the device of the first.

    Raises:
        InvalidInputError: If no posterior is given, their tensors differ, or weights do not fit.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior, SamplesPosterior
        >>> samples = SamplesPosterior({"w": torch.tensor([[1.0], [5.0]])})
        >>> middle = moment_barycenter([PointPosterior({"w": torch.tensor([0.0])}), samples])
        >>> middle.mean["w"].item(), middle.stddev["w"].item()
        (1.5, 1.0)
    """
    return weighted_moments(posteriors, _checked(posteriors, weights))


def barycenter_or_moments(posteriors: Sequence[Posterior], weights: Weights | None = None) -> tuple[Posterior, bool]:
    """Return the barycenter if one is registered, the moment barycenter otherwise, and whether it is the first.

    Args:
        posteriors: As for `barycenter`.
        weights: As for `barycenter`.

    Returns:
        The posterior, and True if it is the 2-Wasserstein barycenter, False if it is that of the moments.

    Raises:
        InvalidInputError: If no posterior is given, their tensors differ, or weights do not fit.
    """
    try:
        return barycenter(posteriors, weights), True
    except NoClosedFormError:
        return moment_barycenter(posteriors, weights), False


def _checked(posteriors: Sequence[Posterior], weights: Weights | None) -> TensorWeights:
    """Return the weights of posteriors, after checking that these are over the same tensors."""
    require_several(posteriors, "several posteriors")
    if not len(posteriors):
        message = "expected at least one posterior, got none"
        raise InvalidInputError(message)
    require_posteriors(*posteriors)
    first = posteriors[0]
    for other in posteriors[1:]:
        require_same_tensors(first.shared_mean(), other.shared_mean(), "a posterior")
        require_same_tensors(first.buffers, other.buffers, "the buffers of a posterior")
    return TensorWeights(weights, len(posteriors))
