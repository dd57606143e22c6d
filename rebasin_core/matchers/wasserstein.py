"""Wasserstein matching of means and standard deviations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from rebasin_core.matchers.channel import mean_channels, moment_channels
from rebasin_core.matchers.symmetric import AbstractSymmetryMatcher

if TYPE_CHECKING:
    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.posteriors.base import Posterior


@final
class WassersteinMatcher(AbstractSymmetryMatcher):
    r"""Aligns distributions: minimizes $W_2(q_0, P_\# q_1)$ between independent Gaussians.

    $$ W_2^2(q_0, P_\# q_1) = \mathrm{const} - 2 \sum_l \langle M^0_l, P_l M^1_l P_{l-1}^\top \rangle
       + \langle S^0_l, P_l S^1_l P_{l-1}^\top \rangle $$

    The mean and the standard deviation are therefore two channels of one sum of bilinear assignment problems. Other
    posteriors than diagonal Gaussians are compared by their marginal means and standard deviations, which gives a lower
    bound of the distance.

    Raises:
        ConfigError: If an option is invalid.

    References:
        S. Rossi, A. Singh, T. Hannagan (2023), "On permutation symmetries in Bayesian neural network posteriors: a
        variational perspective", NeurIPS, arXiv 2310.10171.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> from rebasin_core.specs import table_spec
        >>> mean, stddev = {"b": torch.zeros(2)}, {"b": torch.tensor([1.0, 3.0])}
        >>> spec = table_spec({"b": "hidden"}, mean)
        >>> q = DiagonalGaussianPosterior(mean, stddev)
        >>> r = DiagonalGaussianPosterior(mean, {"b": torch.tensor([3.0, 1.0])})
        >>> WassersteinMatcher().match(q, r, spec).apply(r).stddev["b"].tolist()
        [1.0, 3.0]
    """

    name: Literal["wasserstein"] = "wasserstein"

    @override
    def _channels(self, reference: Posterior, candidate: Posterior) -> tuple[Channels, Channels]:
        if reference.is_point and candidate.is_point:  # all standard deviations are zero
            return mean_channels(reference), mean_channels(candidate)
        return moment_channels(reference), moment_channels(candidate)
