"""Low-rank plus diagonal Gaussians: SWAG, low-rank variational guides, low-rank Laplace."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError, NoClosedFormError
from rebasin_core.posteriors.attached import require_compatible
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.capabilities import AbstractCoupledPath, PosteriorPath
from rebasin_core.posteriors.checks import require_nonnegative, require_same_tensors
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior, gaussian_divergence, unit_rows
from rebasin_core.posteriors.pairs import register_kl
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.noise import standard_normal
from rebasin_core.tensors.optimal_transport import orthogonal_procrustes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.attached import Fields
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.prior import GaussianPrior


@final
class LowRankGaussianPosterior(AbstractGaussianPosterior, AbstractCoupledPath):
    r"""Low-rank plus diagonal Gaussian $\mathcal N\big(m, \mathrm{diag}(d^2) + F^\top F\big)$.

    $$ \theta = m + d \odot z + F^\top w, \qquad z \sim \mathcal N(0, I_P),\; w \sim \mathcal N(0, I_R) $$

    The factor $F$ correlates all parameters, across layers. It is unique only up to an orthogonal map of its rows.
    Matchers therefore compare the marginal standard deviations instead of $F$.

    The coupled path between two posteriors of the same rank first rotates the second factor to the first (orthogonal
    Procrustes). Then $m$, $d$ and $F$ are linear in $t$. The length of this path is at least the 2-Wasserstein
    distance.

    Args:
        mean: Mean $m$ by parameter name, each ``[*s]``.
        diagonal: Standard deviation $d$ of the independent part by parameter name, each ``[*s]``, nonnegative.
        factor: Factor $F$ by parameter name, each ``[R, *s]`` with the same rank R, at least 1.
        buffers: Buffers of the model by name; none if None.
        fixed: Parameters that are not random, by name; none if None.
        prior: Prior under which the posterior was fitted; None if unknown.

    Raises:
        InvalidInputError: If names or shapes differ, or an entry of ``diagonal`` is negative or not finite.

    References:
        W. Maddox et al. (2019), "A simple baseline for Bayesian uncertainty in deep learning", NeurIPS, arXiv
        1902.02476, equation 1: there $d^2 = \frac12 \mathrm{diag}$ and $F = \hat D^\top / \sqrt{2 (K - 1)}$.

    Examples:
        >>> import torch
        >>> w = {"w": torch.zeros(2)}
        >>> q = LowRankGaussianPosterior(w, {"w": torch.zeros(2)}, {"w": torch.tensor([[3.0, 4.0]])})
        >>> q.stddev["w"].tolist(), q.covariance().tolist()
        ([3.0, 4.0], [[9.0, 12.0], [12.0, 16.0]])
    """

    kind: ClassVar[str] = "low_rank_gaussian"
    _linear_fields: ClassVar[frozenset[str]] = frozenset({"mean", "factor"})
    _scale_fields: ClassVar[frozenset[str]] = frozenset({"diagonal"})
    _has_gaussian_scales: ClassVar[bool] = True

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        diagonal: Mapping[str, Tensor],
        factor: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        fields = {"mean": mean, "diagonal": diagonal, "factor": factor}
        super().__init__(fields, auxiliary=AuxiliaryTensors.of(buffers, fixed, prior))
        require_same_tensors(mean, diagonal, "the diagonal")
        require_nonnegative(diagonal, "the diagonal")
        ranks = {name: len(tensor) if tensor.dim() else 0 for name, tensor in factor.items()}
        if len(set(ranks.values())) != 1 or 0 in ranks.values():
            message = f"expected a factor of the same rank (at least 1) for every parameter, got ranks {ranks}"
            raise InvalidInputError(message)
        require_same_tensors(mean, {name: tensor[0] for name, tensor in factor.items()}, "a row of the factor")

    @property
    def rank(self) -> int:
        """Rank R: the number of rows of the factor."""
        return len(next(iter(self._fields["factor"].values())))

    @property
    def diagonal(self) -> dict[str, Tensor]:
        """Standard deviation $d$ of the independent part, each ``[*s]``."""
        return copied(self._fields["diagonal"])

    @property
    def factor(self) -> dict[str, Tensor]:
        """Factor $F$, each ``[R, *s]``."""
        return copied(self._fields["factor"])

    @override
    def _stddev(self) -> dict[str, Tensor]:
        return {
            name: (diagonal.square() + self._fields["factor"][name].square().sum(0)).sqrt()
            for name, diagonal in self._fields["diagonal"].items()
        }

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        mean = self._fields["mean"]
        noise = {n: standard_normal((*sample_shape, *t.shape), t, generator) for n, t in mean.items()}
        # The noise of the factor has no parameter name: permutations leave it unchanged.
        return noise | {"": standard_normal((*sample_shape, self.rank), next(iter(mean.values())), generator)}

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.addcmul(mean, self._fields["diagonal"][name], noise[name])
            + torch.tensordot(noise[""], self._fields["factor"][name], dims=1)
            for name, mean in self._fields["mean"].items()
        }

    @override
    def as_distribution(self) -> torch.distributions.LowRankMultivariateNormal:
        # Uses the Woodbury identity: no P x P matrix is formed.
        diagonal = self._flat(self._fields["diagonal"])
        factor = self._flat(self._fields["factor"])
        if not bool((diagonal > 0).all()):
            message = "expected positive entries of the diagonal for a density, got a zero entry"
            raise InvalidInputError(message)
        return torch.distributions.LowRankMultivariateNormal(
            self.flat_mean(), factor.T.contiguous(), diagonal.square(), validate_args=False
        )

    @override
    def coupled_path(self, other: Posterior) -> PosteriorPath:
        second = require_compatible(self, other)
        if second.rank != self.rank:
            message = f"expected factors of the same rank for the coupled path, got {self.rank} and {second.rank}"
            raise NoClosedFormError(message)
        factor = orthogonal_procrustes(self._fields["factor"], second._fields["factor"])
        rotated = LowRankGaussianPosterior(
            second.random_mean, second.diagonal, factor, fixed=second.fixed, buffers=second.buffers
        )
        return self.linear_path(rotated)

    @override
    def _root(self) -> dict[str, Tensor]:
        diagonal = self._fields["diagonal"]
        factor = self._fields["factor"]
        return {name: torch.cat([unit * diagonal[name], factor[name]]) for name, unit in unit_rows(diagonal).items()}

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        return cls(fields["mean"], fields["diagonal"], fields["factor"], **auxiliary.options)


@register_kl(LowRankGaussianPosterior, LowRankGaussianPosterior)
def _divergence(first: LowRankGaussianPosterior, second: LowRankGaussianPosterior) -> float:
    if first.random_names != second.random_names:
        return gaussian_divergence(first, second)
    return torch.distributions.kl_divergence(first.as_distribution(), second.as_distribution()).item()
