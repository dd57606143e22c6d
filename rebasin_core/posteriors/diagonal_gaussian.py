"""Independent Gaussians: mean-field variational inference, diagonal Laplace, IVON."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.base import AbstractGeodesic, Posterior
from rebasin_core.posteriors.companions import Companions
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior, unit_rows
from rebasin_core.posteriors.pairing import blend, blend_buffers, require_pair, require_same_tensors, require_spread
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.noise import standard_normal
from rebasin_core.tensors.statistics import normal_log_density

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.attached import Fields
    from rebasin_core.posteriors.prior import GaussianPrior


@final
class DiagonalGaussianPosterior(AbstractGaussianPosterior, AbstractGeodesic):
    r"""The Gaussian $\mathcal N(m, \mathrm{diag}(s^2))$ with independent entries.

    Its 2-Wasserstein geodesics are linear in the mean and in the *standard deviation* (not the variance):
    $m_t = (1-t) m_0 + t m_1$ and $s_t = (1-t) s_0 + t s_1$.

    Args:
        mean: $m$ by parameter name.
        stddev: $s$ by parameter name, same shapes; zero is allowed, and then there is no density.
        buffers: The model's buffers by name.
        fixed: Parameters that are not random, by name.
        prior: The prior that it was fitted under, if known.

    Raises:
        InvalidInputError: If names or shapes differ, or a standard deviation is negative or not finite.

    Example:
        >>> import torch
        >>> q = DiagonalGaussianPosterior({"w": torch.zeros(1)}, {"w": torch.ones(1)})
        >>> r = DiagonalGaussianPosterior({"w": torch.ones(1)}, {"w": 3 * torch.ones(1)})
        >>> q.geodesic(r, 0.5).stddev["w"].item()
        2.0
    """

    kind: ClassVar[str] = "diagonal_gaussian"

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        stddev: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        super().__init__({"mean": mean, "stddev": stddev}, companions=Companions.of(buffers, fixed, prior))
        require_same_tensors(mean, stddev, "the standard deviation")
        require_spread(stddev, "the standard deviation")

    @property
    def noisy_names(self) -> frozenset[str]:
        """The parameters with a standard deviation above zero somewhere."""
        return frozenset(name for name, stddev in self._fields["stddev"].items() if bool((stddev > 0).any()))

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
    def geodesic(self, other: Posterior, t: float) -> DiagonalGaussianPosterior:
        end = require_pair(self, other, t)
        return DiagonalGaussianPosterior(
            blend(self._fields["mean"], end._fields["mean"], t),
            blend(self._fields["stddev"], end._fields["stddev"], t),
            fixed=blend(self._fixed, end._fixed, t),  # ruff: ignore[private-member-access]
            buffers=blend_buffers(self.buffers, end.buffers, t),
        )

    @override
    def _root(self) -> dict[str, Tensor]:
        return {name: unit * self._fields["stddev"][name] for name, unit in unit_rows(self._fields["stddev"]).items()}

    def _random(self, name: str) -> Tensor:
        stddev = self._fields["stddev"][name]
        if stddev.numel() and not stddev.min().item() > 0:
            message = (
                f"`{name}` has entries with zero standard deviation, so there is no density; expected positive ones"
            )
            raise InvalidInputError(message)
        return stddev

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, free: Mapping[str, Tensor], companions: Companions) -> Self:
        return cls(fields["mean"], fields["stddev"], **companions.options)
