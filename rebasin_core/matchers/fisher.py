"""Fisher matching of means, weighted by the precisions of both posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from typing_extensions import override

from rebasin_core.matchers.channel import AbstractChannelMatcher, require_positive_stddev

if TYPE_CHECKING:
    from rebasin_core.bilinear.terms import Channels
    from rebasin_core.posteriors.base import Posterior


@final
class FisherMatcher(AbstractChannelMatcher):
    r"""Aligns means by squared differences, weighted by the precisions $\Lambda = 1/S^2$ of both posteriors.

    $$ \min_P \tfrac12 \sum_l \big\lVert (\Lambda_0 + P\Lambda_1)^{1/2} (M_0 - P M_1) \big\rVert^2
       = \mathrm{const} - \max_P \sum_l \langle \Lambda_0 M_0 , P M_1 \rangle
       + \langle M_0, P \Lambda_1 M_1 \rangle
       - \tfrac12 \langle \Lambda_0, P M_1^2 \rangle - \tfrac12 \langle M_0^2, P \Lambda_1 \rangle $$

    (written for one axis), where squares are taken entry by entry: a sum of bilinear assignment problems with four
    channels. The precision of a Laplace posterior is the Fisher information plus the prior precision.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching, if a standard deviation is zero.

    References:
        M. Matena, C. Raffel (2022), "Merging models with Fisher-weighted averaging", NeurIPS, arXiv 2111.09832 (on
        weighting by the Fisher information).

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> from rebasin_core.specs import table_spec
        >>> mean, stddev = {"b": torch.tensor([1.0, 0.0])}, {"b": torch.ones(2)}
        >>> spec = table_spec({"b": "hidden"}, mean)
        >>> q = DiagonalGaussianPosterior(mean, stddev)
        >>> r = DiagonalGaussianPosterior({"b": torch.tensor([0.0, 1.0])}, stddev)
        >>> FisherMatcher().match(q, r, spec).apply(r).mean["b"].tolist()
        [1.0, 0.0]
    """

    name: Literal["fisher"] = "fisher"

    @override
    def _channels(self, reference: Posterior, candidate: Posterior) -> tuple[Channels, Channels]:
        for posterior, role in ((reference, "reference"), (candidate, "candidate")):
            require_positive_stddev(posterior, role)
        # In float64, since squares and precisions vary over many orders of magnitude.
        m0 = {n: t.double() for n, t in reference.mean.items()}
        m1 = {n: t.double() for n, t in candidate.mean.items()}
        p0 = {n: t.double().square().reciprocal() for n, t in reference.stddev.items()}
        p1 = {n: t.double().square().reciprocal() for n, t in candidate.stddev.items()}
        return (
            {n: torch.stack([p0[n] * m, m, -0.5 * p0[n], -0.5 * m.square()]) for n, m in m0.items()},
            {n: torch.stack([m, p1[n] * m, m.square(), p1[n]]) for n, m in m1.items()},
        )
