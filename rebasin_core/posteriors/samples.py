"""Samples: chains of MCMC, deep ensembles, draws from anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.assignment import solve_assignment
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior, Fields
from rebasin_core.posteriors.base import AbstractGeodesic, Posterior
from rebasin_core.posteriors.companions import Companions
from rebasin_core.posteriors.pairing import blend, blend_buffers, normalised_weights, require_pair
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.modules import copied
from rebasin_core.tensors.optimal_transport import squared_distances

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import Permutation


@final
class SamplesPosterior(AbstractAttachedPosterior, AbstractGeodesic):
    r"""The empirical distribution $\sum_k w_k \delta_{\theta_k}$ of weighted samples.

    Its geodesic to another one of as many, equally weighted samples is the displacement interpolation: samples are
    paired by optimal transport (an assignment, exact) and each pair moves on a straight line.

    Args:
        samples: ``[K, *s]`` for every random parameter, K at least 1 and the same for all.
        weights: ``[K]``, not negative, not all zero; normalised here. Equal if not given.
        chains: ``[K]`` integers: the chain that every sample is from, in order of time within a chain. All from one
            chain if not given.
        sample_buffers: Buffers that every sample has its own of (an ensemble with normalisation statistics), each
            ``[K, *s]``.
        buffers: Buffers that all samples share.
        fixed: Parameters that are not random, by name.
        prior: The prior that they were drawn under, if known.

    Raises:
        InvalidInputError: If the numbers of samples differ, or the weights are not weights.

    Example:
        >>> import torch
        >>> q = SamplesPosterior({"w": torch.tensor([[0.0], [2.0]])})
        >>> q.mean["w"].item(), q.stddev["w"].item()
        (1.0, 1.0)
    """

    kind: ClassVar[str] = "samples"
    _apart: ClassVar[frozenset[str]] = frozenset({"sample_buffers"})

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
        weights = normalised_weights(torch.ones(count) if weights is None else weights, count)
        chains = torch.zeros(count, dtype=torch.int64) if chains is None else chains
        if tuple(chains.shape) != (count,) or chains.is_floating_point():
            message = f"expected {count} numbers of chains as integers, got {chains}"
            raise InvalidInputError(message)
        fields = {"samples": samples, "sample_buffers": sample_buffers or {}}
        free = {"weights": weights, "chains": chains}
        super().__init__(fields, companions=Companions.of(buffers, fixed, prior), free=free)

    @property
    def num_samples(self) -> int:
        """The number of samples."""
        return self._free["weights"].shape[0]

    @property
    def samples(self) -> dict[str, Tensor]:
        """The samples, each ``[K, *s]``."""
        return copied(self._fields["samples"])

    @property
    def weights(self) -> Tensor:
        """The normalised weights ``[K]``."""
        return self._free["weights"].clone()

    @property
    def chains(self) -> Tensor:
        """The chain of every sample, ``[K]``."""
        return self._free["chains"].clone()

    @property
    @override
    def buffers(self) -> dict[str, Tensor]:
        own = {
            n: self._average(t) if t.is_floating_point() else t[0].clone()
            for n, t in self._fields["sample_buffers"].items()
        }
        return {**own, **{name: tensor.clone() for name, tensor in self._companions.buffers.items()}}

    def member(self, index: int) -> PointPosterior:
        """Return one of the samples, with its buffers and the fixed parameters.

        Args:
            index: Which, from 0.

        Returns:
            The point.

        Raises:
            InvalidInputError: If there is no such sample.
        """
        if not 0 <= index < self.num_samples:
            message = f"expected the number of a sample from 0 to {self.num_samples - 1}, got {index!r}"
            raise InvalidInputError(message)
        own, buffers = (
            {name: t[index].clone() for name, t in part.items()}
            for part in (self._fields["samples"], self._fields["sample_buffers"])
        )
        return PointPosterior({**own, **self._fixed}, buffers={**buffers, **self._companions.buffers}, prior=self.prior)

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
        # Uniform numbers, turned into indices by the inverse of the distribution function.
        return {"": torch.rand((*sample_shape, 1), generator=generator, device=generator.device)}

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        uniform = noise[""].squeeze(-1).to(self._free["weights"].device)
        index = torch.searchsorted(self._free["weights"].cumsum(0).to(uniform), uniform, right=True)
        index = index.clamp_max(self.num_samples - 1)
        every = {**self._fields["samples"], **self._fields["sample_buffers"]}
        return {name: tensor[index.to(tensor.device)].clone() for name, tensor in every.items()}

    def permute_each(self, permutations: Sequence[Permutation]) -> SamplesPosterior:
        """Return the samples, each moved by a group element of its own.

        The predictive distribution stays as it is; the distribution over weights does not. Where every sample comes
        from a posterior that symmetries leave unchanged, the moved samples are as good as the given ones.

        Args:
            permutations: One a sample.

        Returns:
            The moved samples.

        Raises:
            InvalidInputError: If their number is another, or a layout does not fit.
        """
        if len(permutations) != self.num_samples:
            message = f"expected {self.num_samples} permutations, one a sample, got {len(permutations)}"
            raise InvalidInputError(message)
        every = {**self._fields["samples"], **self._fields["sample_buffers"]}
        shared = {**self._fixed, **self._companions.buffers}
        fixed = [name for p in permutations for name, t in p.apply(shared).items() if not torch.equal(t, shared[name])]
        if fixed:
            message = f"{sorted(set(fixed))} are shared by all samples and would have to move with each of them"
            raise InvalidInputError(message)
        moved = [p.apply({name: t[k] for name, t in every.items()}) for k, p in enumerate(permutations)]
        stacked = {name: torch.stack([m[name] for m in moved]) for name in every}
        return SamplesPosterior(
            {name: stacked[name] for name in self._fields["samples"]},
            sample_buffers={name: stacked[name] for name in self._fields["sample_buffers"]},
            **{name: tensor.clone() for name, tensor in self._free.items()},
            **self._companions.options,
        )

    @override
    def geodesic(self, other: Posterior, t: float) -> SamplesPosterior:
        end = require_pair(self, other, t)
        for posterior in (self, end):
            if posterior.num_samples != self.num_samples or not posterior.is_uniform:
                message = (
                    "the displacement path needs as many samples at both ends, equally weighted; got "
                    f"{self.num_samples} and {end.num_samples}. Resample one of them"
                )
                raise InvalidInputError(message)
        target = end._fields["samples"]
        order = solve_assignment(-squared_distances(self._fields["samples"], target))

        def paired(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor[order.to(tensor.device)] for name, tensor in tensors.items()}

        return SamplesPosterior(
            blend(self._fields["samples"], paired(target), t),
            sample_buffers=blend_buffers(self._fields["sample_buffers"], paired(end._fields["sample_buffers"]), t),
            fixed=blend(self._fixed, end._fixed, t),  # ruff: ignore[private-member-access]
            buffers=blend_buffers(self._companions.buffers, end._companions.buffers, t),  # ruff: ignore[private-member-access]
        )

    @property
    def is_uniform(self) -> bool:
        """Whether all samples have the same weight."""
        weights = self._free["weights"]
        return torch.allclose(weights, torch.full_like(weights, 1 / len(weights)))

    def _average(self, tensor: Tensor) -> Tensor:
        average: Tensor = torch.tensordot(self._free["weights"].to(tensor), tensor, dims=1)
        return average

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, free: Mapping[str, Tensor], companions: Companions) -> Self:
        own = fields.get("sample_buffers")
        options = companions.options
        return cls(fields["samples"], weights=free["weights"], chains=free["chains"], sample_buffers=own, **options)
