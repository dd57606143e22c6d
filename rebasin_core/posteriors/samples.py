"""Samples: chains of MCMC, deep ensembles, draws from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.base import AbstractGeodesic, Posterior
from rebasin_core.posteriors.pairing import blend_buffers, require_pair
from rebasin_core.tensors.assignment import solve_assignment
from rebasin_core.tensors.transport import squared_distances

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor


@final
class SamplesPosterior(AbstractAttachedPosterior, AbstractGeodesic):
    r"""The empirical distribution $\sum_k w_k \delta_{\theta_k}$ of weighted samples.

    Its geodesic to another one of as many, equally weighted samples is the displacement interpolation: samples are
    paired by optimal transport (an assignment, exact) and each pair moves on a straight line.

    Args:
        samples: ``[K, *s]`` for every parameter, K at least 1 and the same for all.
        weights: ``[K]``, not negative, not all zero; normalised here. Equal if not given.
        buffers: The model's buffers by name, one setting for all samples.

    Raises:
        InvalidInputError: If the numbers of samples differ, or the weights are not weights.

    Example:
        >>> import torch
        >>> q = SamplesPosterior({"w": torch.tensor([[0.0], [2.0]])})
        >>> q.mean["w"].item(), q.stddev["w"].item()
        (1.0, 1.0)
    """

    kind: ClassVar[str] = "samples"

    def __init__(
        self,
        samples: Mapping[str, Tensor],
        *,
        weights: Tensor | None = None,
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        counts = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in samples.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            message = f"expected the same number (at least 1) of samples for every parameter, got {counts}"
            raise InvalidInputError(message)
        count = next(iter(counts.values()))
        weights = torch.ones(count) if weights is None else weights
        if tuple(weights.shape) != (count,) or not bool((weights >= 0).all()) or not weights.sum().item() > 0:
            message = f"expected {count} weights, none negative and not all zero, got {weights}"
            raise InvalidInputError(message)
        super().__init__({"samples": samples}, buffers=buffers, free={"weights": weights / weights.sum()})

    @property
    def num_samples(self) -> int:
        """The number of samples."""
        return self.weights.shape[0]

    @property
    def samples(self) -> dict[str, Tensor]:
        """The samples, each ``[K, *s]``."""
        return {name: tensor.clone() for name, tensor in self._fields["samples"].items()}

    @property
    def weights(self) -> Tensor:
        """The normalised weights ``[K]``."""
        return self._free["weights"].clone()

    @property
    @override
    def mean(self) -> dict[str, Tensor]:
        return {name: self._average(tensor) for name, tensor in self._fields["samples"].items()}

    @property
    @override
    def stddev(self) -> dict[str, Tensor]:
        return {
            name: self._average((tensor - self._average(tensor)).square()).sqrt()
            for name, tensor in self._fields["samples"].items()
        }

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        # Uniform numbers, turned into indices by the inverse of the distribution function.
        return {"": torch.rand((*sample_shape, 1), generator=generator, device=generator.device)}

    @override
    def from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        uniform = noise[""].squeeze(-1).to(self._free["weights"].device)
        index = torch.searchsorted(self._free["weights"].cumsum(0).to(uniform), uniform, right=True)
        index = index.clamp_max(self.num_samples - 1)
        samples = {name: tensor[index.to(tensor.device)].clone() for name, tensor in self._fields["samples"].items()}
        return {**samples, **self._expanded_buffers(tuple(index.shape))}

    @override
    def geodesic(self, other: Posterior, t: float) -> SamplesPosterior:
        end = require_pair(self, other, t)
        uniform = torch.full_like(self._free["weights"], 1 / self.num_samples)
        for posterior in (self, end):
            if posterior.num_samples != self.num_samples or not torch.allclose(posterior.weights.to(uniform), uniform):
                message = (
                    "the displacement path needs as many samples at both ends, equally weighted; got "
                    f"{self.num_samples} and {end.num_samples}. Resample one of them"
                )
                raise InvalidInputError(message)
        target = end.samples
        order = solve_assignment(-squared_distances(self._fields["samples"], target))
        samples = {
            name: torch.lerp(tensor, target[name][order.to(tensor.device)], t)
            for name, tensor in self._fields["samples"].items()
        }
        return SamplesPosterior(samples, buffers=blend_buffers(self._buffers, end.buffers, t))

    def _average(self, tensor: Tensor) -> Tensor:
        average: Tensor = torch.tensordot(self._free["weights"].to(tensor), tensor, dims=1)
        return average

    @classmethod
    @override
    def _rebuild(
        cls, fields: Mapping[str, Mapping[str, Tensor]], buffers: Mapping[str, Tensor], free: Mapping[str, Tensor]
    ) -> Self:
        return cls(fields["samples"], weights=free["weights"], buffers=buffers)
