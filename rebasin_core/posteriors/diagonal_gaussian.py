"""Diagonal Gaussians: mean-field variational inference, diagonal Laplace, IVON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian, PosteriorPath
from rebasin_core.posteriors.checks import require_nonnegative, require_same_tensors
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior, require_same_random, unit_rows
from rebasin_core.posteriors.pairs import register_barycenter, register_geodesic, register_kl, register_wasserstein
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.noise import standard_normal
from rebasin_core.tensors.optimal_transport import squared_distance
from rebasin_core.tensors.statistics import gaussian_kl, normal_log_density

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.attached import Fields
    from rebasin_core.posteriors.averaging import TensorWeights
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.prior import GaussianPrior


@final
class DiagonalGaussianPosterior(AbstractIndependentGaussian, AbstractGaussianPosterior):
    r"""Gaussian $\mathcal N(m, \mathrm{diag}(s^2))$ with independent entries (mean-field posterior).

    On a 2-Wasserstein geodesic, the mean and the *standard deviation* (not the variance) are linear in t:
    $m_t = (1-t) m_0 + t m_1$ and $s_t = (1-t) s_0 + t s_1$.

    Args:
        mean: Mean $m$ by parameter name, each ``[*s]``.
        stddev: Standard deviation $s$ by parameter name, same shapes, nonnegative. With a zero entry there is no
            density.
        buffers: Buffers of the model by name; none if None.
        fixed: Parameters that are not random, by name; none if None.
        prior: Prior under which the posterior was fitted; None if unknown.

    Raises:
        InvalidInputError: If names or shapes differ, or a standard deviation is negative or not finite.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import geodesic
        >>> q = DiagonalGaussianPosterior({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        >>> r = DiagonalGaussianPosterior({"w": torch.ones(1)}, {"w": 3 * torch.ones(1)})
        >>> geodesic(q, r)(0.5).stddev["w"].item()
        2.0
    """

    kind: ClassVar[str] = "diagonal_gaussian"
    _linear_fields: ClassVar[frozenset[str]] = frozenset({"mean"})
    _scale_fields: ClassVar[frozenset[str]] = frozenset({"stddev"})
    _has_gaussian_scales: ClassVar[bool] = True

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        stddev: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        super().__init__({"mean": mean, "stddev": stddev}, auxiliary=AuxiliaryTensors.of(buffers, fixed, prior))
        require_same_tensors(mean, stddev, "the standard deviation")
        require_nonnegative(stddev, "the standard deviation")

    @override
    def _stddev(self) -> dict[str, Tensor]:
        return copied(self._fields["stddev"])

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            name: standard_normal((*sample_shape, *tensor.shape), tensor, generator)
            for name, tensor in self._fields["mean"].items()
        }

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: torch.addcmul(mean, self._fields["stddev"][name], noise[name])
            for name, mean in self._fields["mean"].items()
        }

    @override
    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        total: Tensor | float = 0.0
        for name, mean in self._fields["mean"].items():
            stddev = self._random(name)
            total += normal_log_density((parameters[name] - mean) / stddev, stddev)
        return torch.as_tensor(total)

    @override
    def entropy(self) -> Tensor:
        constant = 0.5 * (1 + math.log(2 * math.pi))
        return torch.stack([(self._random(name).log() + constant).sum() for name in self._fields["mean"]]).sum()

    @override
    def _root(self) -> dict[str, Tensor]:
        return {name: unit * self._fields["stddev"][name] for name, unit in unit_rows(self._fields["stddev"]).items()}

    def _random(self, name: str) -> Tensor:
        stddev = self._fields["stddev"][name]
        if stddev.numel() and not stddev.min().item() > 0:
            message = f"expected positive standard deviations for a density, got a zero standard deviation for `{name}`"
            raise InvalidInputError(message)
        return stddev

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        return cls(fields["mean"], fields["stddev"], **auxiliary.options)


@register_wasserstein(AbstractIndependentGaussian, AbstractIndependentGaussian)
def _distance(first: AbstractIndependentGaussian, second: AbstractIndependentGaussian) -> float:
    return math.sqrt(squared_distance(first.mean, second.mean) + squared_distance(first.stddev, second.stddev))


@register_kl(DiagonalGaussianPosterior, DiagonalGaussianPosterior)
def _divergence(first: DiagonalGaussianPosterior, second: DiagonalGaussianPosterior) -> float:
    require_same_random(first, second)
    moments = (first.mean, first.stddev, second.mean, second.stddev)
    return sum(gaussian_kl(*(part[name] for part in moments)).item() for name in first.random_names)


@register_geodesic(DiagonalGaussianPosterior, DiagonalGaussianPosterior)
def _geodesic(first: DiagonalGaussianPosterior, second: DiagonalGaussianPosterior) -> PosteriorPath:
    return first.linear_path(second)


@register_barycenter(AbstractIndependentGaussian)
def weighted_moments(posteriors: Sequence[Posterior], weights: TensorWeights) -> DiagonalGaussianPosterior:
    """Return the diagonal Gaussian with the weighted means of the means and of the standard deviations.

    Args:
        posteriors: Posteriors over the same tensors, at least one, with any representations.
        weights: Weights of the posteriors for each tensor.

    Returns:
        The 2-Wasserstein barycenter of diagonal Gaussians and single networks; an approximation for other posteriors.
    """
    mean = weights.mean([q.mean for q in posteriors])
    stddev = weights.mean([q.stddev for q in posteriors])
    return DiagonalGaussianPosterior(mean, stddev, buffers=weights.mean([q.buffers for q in posteriors]))
