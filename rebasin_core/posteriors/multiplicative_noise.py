"""Multiplicative noise on units: Monte Carlo dropout, Gaussian dropout, rank-one factors."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, final, get_args

import torch
from typing_extensions import override

from rebasin_core.errors import FileFormatError, InvalidInputError, NoClosedFormError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior, Fields, require_compatible
from rebasin_core.posteriors.auxiliary import AuxiliaryTensors
from rebasin_core.posteriors.capabilities import AbstractCoupledPath, PosteriorPath

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import Permutation

NoiseLaw: TypeAlias = Literal["bernoulli", "gaussian"]


@final
@dataclass(frozen=True, slots=True)
class UnitNoise:
    r"""One random factor with mean 1 for every unit of an axis.

    Attributes:
        targets: The axes it multiplies: parameter name and dimension. Several parameters that read the same dropped-out
            units share one noise.
        law: ``bernoulli``: $z = b / k$ with $b \sim \mathrm{Bernoulli}(k)$, as inverted dropout with rate $1 - k$;
            ``gaussian``: $z \sim \mathcal N(1, \rho^2)$.
        rate: ``[n]``, for every unit $k$ in (0, 1], or $\rho \ge 0$.

    Raises:
        InvalidInputError: On construction, if there is no target, the law is unknown, or a rate is out of range.
    """

    targets: tuple[tuple[str, int], ...]
    law: NoiseLaw
    rate: Tensor

    def __post_init__(self) -> None:
        """Check that the parts go together."""
        if not self.targets or self.law not in get_args(NoiseLaw):
            message = f"expected targets and a law among {get_args(NoiseLaw)}, got {self.targets} and {self.law!r}"
            raise InvalidInputError(message)
        low, high = (
            (self.rate > 0, self.rate <= 1) if self.law == "bernoulli" else (self.rate >= 0, self.rate < torch.inf)
        )
        if self.rate.dim() != 1 or not bool((low & high).all()):
            expected = (
                "keep probabilities in (0, 1]" if self.law == "bernoulli" else "standard deviations of at least 0"
            )
            message = f"expected {expected}, one a unit, for {self.targets}, got {self.rate}"
            raise InvalidInputError(message)

    @property
    def key(self) -> str:
        """What the noise is called, in files and among the noise of a posterior."""
        return f"{self.law}:" + "+".join(f"{name}@{dim}" for name, dim in self.targets)

    @classmethod
    def from_key(cls, key: str, rate: Tensor) -> UnitNoise:
        """Return the noise that a key names.

        Args:
            key: As from `key`.
            rate: The rates.

        Returns:
            The noise.

        Raises:
            FileFormatError: If it is no such key.
        """
        law, _, places = key.partition(":")
        try:
            targets = tuple((name, int(dim)) for name, _, dim in (place.rpartition("@") for place in places.split("+")))
        except ValueError as error:
            message = f"expected the name of a noise such as 'bernoulli:fc.weight@1', got {key!r}"
            raise FileFormatError(message) from error
        return cls(targets, "bernoulli" if law == "bernoulli" else "gaussian", rate)

    def second_moment(self) -> Tensor:
        """Return the mean of the squared factor, ``[n]``."""
        return 1 / self.rate if self.law == "bernoulli" else 1 + self.rate.square()

    def factor(self, noise: Tensor) -> Tensor:
        """Return the factors that correspond to noise.

        Args:
            noise: ``[*lead, n]``: uniform, or standard normal.

        Returns:
            ``[*lead, n]``.
        """
        if self.law == "bernoulli":
            return (noise < self.rate).to(self.rate) / self.rate
        return 1 + self.rate * noise


@final
class MultiplicativeNoisePosterior(AbstractAttachedPosterior, AbstractCoupledPath):
    r"""Weights times random factors on their units: $\theta = m \odot \prod_j z_j$, each $z_j$ along one axis.

    Dropout of a layer's inputs with one mask for all examples multiplies the columns of its weight. (Dropout draws a
    mask for every example; predictions averaged over masks are the same in distribution.) Masks that are fixed, or a
    few members with factors of their own (Masksembles, BatchEnsemble), are a `SamplesPosterior`.

    Equal rates need no permutation; rates and factors of every unit move with their axis.

    Args:
        mean: $m$ by parameter name.
        noise: The random factors.
        buffers: The model's buffers by name.
        fixed: Parameters without noise; they may be in ``mean`` too.
        prior: The prior that it was fitted under, if known.

    Raises:
        InvalidInputError: If a target is no parameter, or its axis has another length than the noise.

    References:
        Y. Gal, Z. Ghahramani (2016), "Dropout as a Bayesian approximation", ICML, arXiv 1506.02142; M. Dusenberry et
        al. (2020), "Efficient and scalable Bayesian neural nets with rank-1 factors", ICML, arXiv 2005.07186.

    Examples:
        >>> import torch
        >>> noise = UnitNoise((("w", 1),), "bernoulli", torch.tensor([0.5, 1.0]))
        >>> MultiplicativeNoisePosterior({"w": torch.ones(1, 2)}, [noise]).stddev["w"].tolist()
        [[1.0, 0.0]]
    """

    kind: ClassVar[str] = "multiplicative_noise"

    def __init__(
        self,
        mean: Mapping[str, Tensor],
        noise: Sequence[UnitNoise],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        fixed: Mapping[str, Tensor] | None = None,
        prior: GaussianPrior | None = None,
    ) -> None:
        for source in noise:
            for name, dim in source.targets:
                if name not in mean or not dim < mean[name].dim() or mean[name].shape[dim] != len(source.rate):
                    shape = tuple(mean[name].shape) if name in mean else "no shape: it is no parameter"
                    message = (
                        f"noise of {len(source.rate)} units cannot act on axis {dim} of `{name}`, which has {shape}"
                    )
                    raise InvalidInputError(message)
        rates = {source.key: source.rate for source in noise}
        super().__init__({"mean": mean}, auxiliary=AuxiliaryTensors.of(buffers, fixed, prior), unattached=rates)

    @property
    def noise(self) -> tuple[UnitNoise, ...]:
        """The random factors."""
        return tuple(UnitNoise.from_key(key, rate.clone()) for key, rate in self._unattached.items())

    @override
    def _stddev(self) -> dict[str, Tensor]:
        moments = self._products({source.key: source.second_moment() for source in self.noise})
        return {
            name: mean.abs() * (moments[name] - 1).clamp_min(0).sqrt() if name in moments else torch.zeros_like(mean)
            for name, mean in self._fields["mean"].items()
        }

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        # The empty tensor carries the sample shape when there is no noise at all.
        noise = {"": torch.zeros((*sample_shape, 0))}
        for source in self.noise:
            draw = torch.rand if source.law == "bernoulli" else torch.randn
            shape = (*sample_shape, len(source.rate))
            drawn = draw(shape, generator=generator, device=generator.device, dtype=source.rate.dtype)
            noise[source.key] = drawn.to(source.rate.device)
        return noise

    @override
    def _from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shape = noise[""].shape[:-1]
        factors = self._products({source.key: source.factor(noise[source.key]) for source in self.noise})
        return {
            name: mean * factors[name] if name in factors else mean.expand((*shape, *mean.shape)).clone()
            for name, mean in self._fields["mean"].items()
        }

    @override
    def permute_noise(self, permutation: Permutation, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        moved = {source.key: _permuted_units(permutation, source, noise[source.key]) for source in self.noise}
        return {**noise, **moved}

    def _products(self, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the product of the factors of each parameter that noise acts on, broadcastable to its shape."""
        products: dict[str, Tensor] = {}
        for source in self.noise:
            factor = factors[source.key]
            for name, dim in source.targets:
                behind = [1] * (self._dimensions(name) - dim - 1)
                before = [1] * dim
                shaped = factor.reshape(*factor.shape[:-1], *before, factor.shape[-1], *behind)
                products[name] = products[name] * shaped if name in products else shaped
        return products

    @override
    def coupled_path(self, other: Posterior) -> PosteriorPath:
        end = require_compatible(self, other)
        if end.unattached.keys() != self._unattached.keys():
            message = "expected noise on the same axes in both posteriors for the coupled path"
            raise NoClosedFormError(message)
        return self.linear_path(end)

    @override
    def _permuted_unattached(self, permutation: Permutation) -> dict[str, Tensor]:
        return {source.key: _permuted_units(permutation, source, source.rate) for source in self.noise}

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        noise = list(starmap(UnitNoise.from_key, unattached.items()))
        return cls(fields["mean"], noise, **auxiliary.options)


def _permuted_units(permutation: Permutation, source: UnitNoise, units: Tensor) -> Tensor:
    """Return a tensor ``[*lead, n]`` of the noise's units, moved as the axis of its first target is."""
    name, dim = source.targets[0]
    return permutation.apply_to_axes(name, units, [dim])
