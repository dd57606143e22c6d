"""Empirical distributions of posterior samples: MCMC chains, deep ensembles."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.assignment import solve_assignment
from rebasin_core.errors import ConvergenceWarning, InvalidInputError, NoClosedFormError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior, Fields, require_compatible
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.averaging import normalized_weights
from rebasin_core.posteriors.capabilities import AbstractEmpirical, PosteriorPath
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.posteriors.interpolation import interpolate, interpolate_buffers
from rebasin_core.posteriors.pairs import register_barycenter, register_geodesic, register_wasserstein
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.optimal_transport import assigned_onto, squared_distance, squared_distances, transport_cost

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.averaging import TensorWeights
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import GroupElement, Permutation
    from rebasin_core.tensors.names import TensorNames


# Maximum number of fixed-point iterations for the barycenter.
_ITERATIONS = 50


@final
class SamplesPosterior(AbstractEmpirical, AbstractAttachedPosterior):
    r"""Empirical distribution $\sum_k w_k \delta_{\theta_k}$ of K weighted posterior samples.

    The 2-Wasserstein geodesic between two sets of the same number of equally weighted samples is the displacement
    interpolation: optimal transport pairs the samples (an exact assignment), and each pair is interpolated linearly.

    Args:
        samples: Samples by name of the random parameters, each ``[K, *s]`` with the same K, at least 1.
        weights: Weights $w_k$, ``[K]``, nonnegative, normalized to sum 1; equal if None.
        chains: Index of the chain of each sample, ``[K]`` integers; samples of a chain are sorted by time. One chain if
            None.
        sample_buffers: Buffers of each sample by name, each ``[K, *s]``, such as the normalization statistics of an
            ensemble; none if None.
        buffers: Buffers shared by all samples, by name, each ``[*s]``; none if None.
        fixed: Parameters that are not random, by name; none if None.
        prior: Prior of the sampled posterior; None if unknown.

    Raises:
        InvalidInputError: If the numbers of samples differ, or weights or chains are invalid.

    Examples:
        >>> import torch
        >>> q = SamplesPosterior({"w": torch.tensor([[0.0], [2.0]])})
        >>> q.mean["w"].item(), q.stddev["w"].item()
        (1.0, 1.0)
    """

    kind: ClassVar[str] = "samples"
    _linear_fields: ClassVar[frozenset[str]] = frozenset({"samples"})
    _buffer_fields: ClassVar[frozenset[str]] = frozenset({"sample_buffers"})

    def __init__(  # ruff: ignore[too-many-arguments] - the parts of one distribution
        self,
        samples: Mapping[str, Tensor],
        *,
        weights: Tensor | None = None,
        chains: Tensor | None = None,
        sample_buffers: Mapping[str, Tensor] | None = None,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        own = {**samples, **(sample_buffers or {})}
        counts = {name: tensor.shape[0] if tensor.dim() else 0 for name, tensor in own.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            message = f"expected the same number (at least 1) of samples for every parameter, got {counts}"
            raise InvalidInputError(message)
        count = next(iter(counts.values()))
        weights = normalized_weights(torch.ones(count) if weights is None else weights, count)
        chains = torch.zeros(count, dtype=torch.int64) if chains is None else chains
        if tuple(chains.shape) != (count,) or chains.is_floating_point():
            message = f"expected {count} chain indices as integers, got {chains.dtype} of shape {tuple(chains.shape)}"
            raise InvalidInputError(message)
        fields = {"samples": samples, "sample_buffers": sample_buffers or {}}
        unattached = {"weights": weights, "chains": chains}
        super().__init__(fields, auxiliary=AuxiliaryTensors.of(buffers, fixed, prior), unattached=unattached)

    @classmethod
    def from_points(cls, points: Sequence[Posterior], *, weights: Tensor | None = None) -> Self:
        """Return the empirical distribution of single networks.

        Args:
            points: Point masses over the same tensors, at least one.
            weights: Weights ``[K]``; equal if None.

        Returns:
            The posterior; each sample has its own buffers.

        Raises:
            InvalidInputError: If there is no network, one is not a point mass, or their tensors differ.
        """
        if not points or not all(q.is_point for q in points):
            message = f"expected at least one single network (point mass), got {[q.kind for q in points]}"
            raise InvalidInputError(message)
        for index, point in enumerate(points):
            require_same_tensors(points[0].mean, point.mean, f"network {index}")
            require_same_tensors(points[0].buffers, point.buffers, f"the buffers of network {index}")
        means = [q.mean for q in points]
        buffers = [q.buffers for q in points]
        return cls(
            {name: torch.stack([mean[name] for mean in means]) for name in means[0]},
            sample_buffers={name: torch.stack([own[name] for own in buffers]) for name in buffers[0]},
            weights=weights,
        )

    @classmethod
    def from_posterior(cls, posterior: Posterior, num_samples: int, *, generator: torch.Generator) -> Self:
        """Return the empirical distribution of independent samples of a posterior.

        Args:
            posterior: Any posterior.
            num_samples: Number of samples, at least 1.
            generator: Random number generator.

        Returns:
            The posterior; each sample has its own buffers.

        Raises:
            InvalidInputError: If the number of samples is not positive.
        """
        if num_samples < 1:
            message = f"expected at least one sample, got {num_samples}"
            raise InvalidInputError(message)
        samples = posterior.sample((num_samples,), generator=generator)
        buffers = posterior.buffers
        return cls(
            {name: tensor for name, tensor in samples.items() if name not in buffers},
            sample_buffers={name: samples[name] for name in buffers},
        )

    @property
    @override
    def num_samples(self) -> int:
        return self._unattached["weights"].shape[0]

    @property
    def samples(self) -> dict[str, Tensor]:
        """Samples of the random parameters, each ``[K, *s]``."""
        return copied(self._fields["samples"])

    @property
    @override
    def weights(self) -> Tensor:
        return self._unattached["weights"].clone()

    @property
    @override
    def chains(self) -> Tensor:
        return self._unattached["chains"].clone()

    @property
    @override
    def buffers(self) -> dict[str, Tensor]:
        own = {
            n: self._average(t) if t.is_floating_point() else t[0].clone()
            for n, t in self._fields["sample_buffers"].items()
        }
        return {**own, **self.shared_buffers}

    @property
    def sample_buffers(self) -> dict[str, Tensor]:
        """Buffers of each sample, each ``[K, *s]``."""
        return copied(self._fields["sample_buffers"])

    @property
    def shared_buffers(self) -> dict[str, Tensor]:
        """Buffers shared by all samples, each ``[*s]``."""
        return copied(self._auxiliary.buffers)

    @override
    def _named_as(self, names: TensorNames) -> SamplesPosterior:
        if self._is_named_as(names):
            return self
        samples, buffers = names.divide(self._fields["samples"], self._fields["sample_buffers"], "the samples")
        fields = {"samples": samples, "sample_buffers": buffers}
        return self._rebuild(fields, self._unattached, self._auxiliary.named_as(names, "the samples"))

    @override
    def member(self, index: int) -> PointPosterior:
        if not 0 <= index < self.num_samples:
            message = f"expected the index of a sample from 0 to {self.num_samples - 1}, got {index!r}"
            raise InvalidInputError(message)
        own = {name: tensor[index].clone() for name, tensor in self._fields["samples"].items()}
        buffers = {name: tensor[index].clone() for name, tensor in self._fields["sample_buffers"].items()}
        return PointPosterior({**own, **self._fixed}, buffers={**buffers, **self._auxiliary.buffers}, prior=self.prior)

    @override
    def _mean(self) -> dict[str, Tensor]:
        return {name: self._average(tensor) for name, tensor in self._fields["samples"].items()}

    @override
    def _stddev(self) -> dict[str, Tensor]:
        return {
            name: self._average((tensor - self._average(tensor)).square()).sqrt()
            for name, tensor in self._fields["samples"].items()
        }

    @override
    def _dimensions(self, name: str) -> int:
        return self._fields["samples"][name].dim() - 1

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        # Uniform noise, which inverse transform sampling maps to the index of a sample.
        return {"": torch.rand((*sample_shape, 1), generator=generator, device=generator.device)}

    @override
    def at_quantiles(self, noise: Mapping[str, Tensor], quantiles: Tensor) -> dict[str, Tensor]:
        return {**noise, "": quantiles.unsqueeze(-1).to(noise[""].device)}

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        uniform = noise[""].squeeze(-1).to(self._unattached["weights"].device)
        index = torch.searchsorted(self._unattached["weights"].cumsum(0).to(uniform), uniform, right=True)
        # By rounding, the last cumulative weight may be less than 1 and than the noise.
        index = index.clamp_max(self.num_samples - 1)
        every = {**self._fields["samples"], **self._fields["sample_buffers"]}
        return {name: tensor[index.to(tensor.device)].clone() for name, tensor in every.items()}

    @override
    def permute_each(self, permutations: Sequence[Permutation]) -> Self:
        return self.transform_each(permutations)

    @override
    def transform_each(self, elements: Sequence[GroupElement]) -> Self:
        if len(elements) != self.num_samples:
            message = f"expected {self.num_samples} permutations, one per sample, got {len(elements)}"
            raise InvalidInputError(message)
        every = {**self._fields["samples"], **self._fields["sample_buffers"]}
        shared = {**self._fixed, **self._auxiliary.buffers}
        fixed = [name for p in elements for name, t in p.apply(shared).items() if not torch.equal(t, shared[name])]
        if fixed:
            message = (
                "expected permutations that do not change tensors shared by all samples, got ones that change "
                f"{sorted(set(fixed))}"
            )
            raise InvalidInputError(message)
        permuted = [p.apply({name: t[k] for name, t in every.items()}) for k, p in enumerate(elements)]
        stacked = {name: torch.stack([m[name] for m in permuted]) for name in every}
        return type(self)(
            {name: stacked[name] for name in self._fields["samples"]},
            sample_buffers={name: stacked[name] for name in self._fields["sample_buffers"]},
            **{name: tensor.clone() for name, tensor in self._unattached.items()},
            **self._auxiliary.options,
        )

    def _average(self, tensor: Tensor) -> Tensor:
        average: Tensor = torch.tensordot(self._unattached["weights"].to(tensor), tensor, dims=1)
        return average

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        return cls(
            fields["samples"],
            weights=unattached["weights"],
            chains=unattached["chains"],
            sample_buffers=fields.get("sample_buffers"),
            **auxiliary.options,
        )


@register_wasserstein(SamplesPosterior, SamplesPosterior)
def _distance(first: SamplesPosterior, second: SamplesPosterior) -> float:
    """Return the distance by exact optimal transport between the two sets of samples."""
    # Fixed parameters add the same constant to the cost of every pair.
    cost = squared_distances(first.samples, second.samples) + squared_distance(first.fixed, second.mean)
    return math.sqrt(transport_cost(first.weights, second.weights, cost))


@register_geodesic(SamplesPosterior, SamplesPosterior)
def _displacement(first: SamplesPosterior, second: SamplesPosterior) -> PosteriorPath:
    require_compatible(first, second)
    require_same_tensors(first.sample_buffers, second.sample_buffers, "the sample buffers of the second posterior")
    _require_equal_numbers([first, second])
    order = solve_assignment(-squared_distances(first.samples, second.samples))

    def paired(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor[order.to(tensor.device)] for name, tensor in tensors.items()}

    samples = first.samples, paired(second.samples)
    own_buffers = first.sample_buffers, paired(second.sample_buffers)
    fixed = first.fixed, second.fixed
    shared = first.shared_buffers, second.shared_buffers

    def at(t: float) -> SamplesPosterior:
        return SamplesPosterior(
            interpolate(*samples, t),
            sample_buffers=interpolate_buffers(*own_buffers, t),
            fixed=interpolate(*fixed, t),
            buffers=interpolate_buffers(*shared, t),
        )

    return at


@register_barycenter(SamplesPosterior)
def _barycenter(posteriors: Sequence[SamplesPosterior], weights: TensorWeights) -> SamplesPosterior:
    """Return the fixed point with free support: assign all sets to the current one, average, and repeat."""
    weights.require_uniform("samples")
    _require_equal_numbers(posteriors)
    sets = [q.samples for q in posteriors]
    current: Mapping[str, Tensor] = sets[0]
    for _ in range(_ITERATIONS):
        previous = current
        current = weights.mean([assigned_onto(previous, samples) for samples in sets])
        if not squared_distance(current, previous):
            break
    else:
        message = f"the barycenter of samples did not converge in {_ITERATIONS} iterations; the result is approximate"
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
    fixed = weights.mean([q.fixed for q in posteriors])
    return SamplesPosterior(current, fixed=fixed, buffers=weights.mean([q.buffers for q in posteriors]))


def _require_equal_numbers(posteriors: Sequence[SamplesPosterior]) -> None:
    counts = [q.num_samples for q in posteriors]
    if len(set(counts)) > 1 or not all(q.is_uniform for q in posteriors):
        message = (
            f"expected the same number of equally weighted samples in all posteriors, got {counts} samples with "
            f"{'equal' if all(q.is_uniform for q in posteriors) else 'unequal'} weights; resample to the same number"
        )
        raise NoClosedFormError(message)
