"""Multiplicative noise on units: Monte Carlo dropout, Gaussian dropout, rank-1 factors."""

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
from rebasin_core.posteriors.transformation import acting_on, raise_not_closed, require_unshifted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.symmetry.permutation import Permutation
    from rebasin_core.symmetry.symmetry_element import SymmetryElement

NoiseLaw: TypeAlias = Literal["bernoulli", "gaussian"]


@final
@dataclass(frozen=True, slots=True)
class UnitNoise:
    r"""Random factors with mean 1, one for each of the n units of an axis.

    Attributes:
        targets: Axes that the factors multiply, as pairs of parameter name and dimension. Parameters whose inputs are
            the same units share one noise.
        law: ``bernoulli``: $z = b / k$ with $b \sim \mathrm{Bernoulli}(k)$, that is inverted dropout with rate $1 - k$;
            ``gaussian``: $z \sim \mathcal N(1, \rho^2)$.
        rate: ``[n]``: keep probabilities $k$ in (0, 1], or standard deviations $\rho \ge 0$.

    Raises:
        InvalidInputError: On construction, if there is no target, the law is unknown, or a rate is out of range.
    """

    targets: tuple[tuple[str, int], ...]
    law: NoiseLaw
    rate: Tensor

    def __post_init__(self) -> None:
        """Raise if targets, law or rate are invalid."""
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
            message = f"expected {expected}, one per unit, for {self.targets}, got {self.rate}"
            raise InvalidInputError(message)

    @property
    def key(self) -> str:
        """Name of the noise in files and in `Posterior.draw_noise`, such as ``bernoulli:fc.weight@1``."""
        return f"{self.law}:" + "+".join(f"{name}@{dim}" for name, dim in self.targets)

    @classmethod
    def from_key(cls, key: str, rate: Tensor) -> UnitNoise:
        """Return the noise with a given key.

        Args:
            key: Name of the noise, as from the attribute `key`.
            rate: Rates of the units, ``[n]``.

        Returns:
            The noise.

        Raises:
            FileFormatError: If the key has another format.
        """
        law, _, axes = key.partition(":")
        try:
            targets = tuple((name, int(dim)) for name, _, dim in (axis.rpartition("@") for axis in axes.split("+")))
        except ValueError as error:
            message = f"expected a name of noise such as 'bernoulli:fc.weight@1', got {key!r}"
            raise FileFormatError(message) from error
        return cls(targets, "bernoulli" if law == "bernoulli" else "gaussian", rate)

    def second_moment(self) -> Tensor:
        """Return the second moment E[z^2] of each factor, ``[n]``."""
        return 1 / self.rate if self.law == "bernoulli" else 1 + self.rate.square()

    def factor(self, noise: Tensor) -> Tensor:
        """Return the factors for given base noise.

        Args:
            noise: ``[*lead, n]``: uniform for ``bernoulli``, standard normal for ``gaussian``.

        Returns:
            Factors ``[*lead, n]``.
        """
        if self.law == "bernoulli":
            return (noise < self.rate).to(self.rate) / self.rate
        return 1 + self.rate * noise


@final
class MultiplicativeNoisePosterior(AbstractAttachedPosterior, AbstractCoupledPath):
    r"""Weights with multiplicative noise on units: $\theta = m \odot \prod_j z_j$, each $z_j$ along one axis.

    Dropout on the inputs of a layer, with one mask for all examples, multiplies the columns of its weight. (Standard
    dropout samples one mask per example; the predictive distribution of an example is the same.) Ensembles with fixed
    masks or member-specific factors (Masksembles, BatchEnsemble) are a `SamplesPosterior`.

    Rates and factors are permuted with their axis. Signs and scales of units multiply the mean. Rotations of an axis
    with noise are not represented; those of other axes are.

    Args:
        mean: Mean $m$ by parameter name, each ``[*s]``.
        noise: The random factors $z_j$.
        buffers: Buffers of the model by name; none if None.
        fixed: Parameters without noise, by name; they may be in ``mean`` instead.
        prior: Prior under which the posterior was fitted; None if unknown.

    Raises:
        InvalidInputError: If a target is not a parameter, or its axis has another length than the noise.

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
    _linear_fields: ClassVar[frozenset[str]] = frozenset({"mean"})

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
                    shape = f"shape {tuple(mean[name].shape)}" if name in mean else "no parameter of this name"
                    message = f"expected an axis {dim} of length {len(source.rate)} in `{name}`, got {shape}"
                    raise InvalidInputError(message)
        rates = {source.key: source.rate for source in noise}
        super().__init__({"mean": mean}, auxiliary=AuxiliaryTensors.of(buffers, fixed, prior), unattached=rates)

    @property
    def noise(self) -> tuple[UnitNoise, ...]:
        """The random factors $z_j$."""
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
        # The empty tensor has the sample shape, also without any noise.
        noise = {"": torch.zeros((*sample_shape, 0))}
        for source in self.noise:
            sample = torch.rand if source.law == "bernoulli" else torch.randn
            shape = (*sample_shape, len(source.rate))
            own = sample(shape, generator=generator, device=generator.device, dtype=source.rate.dtype)
            noise[source.key] = own.to(source.rate.device)
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
        permuted = {source.key: _permuted_units(permutation, source, noise[source.key]) for source in self.noise}
        return {**noise, **permuted}

    def _products(self, factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the product of all factors of each parameter with noise, broadcastable to its shape."""
        products: dict[str, Tensor] = {}
        for source in self.noise:
            factor = factors[source.key]
            for name, dim in source.targets:
                trailing = [1] * (self._dimensions(name) - dim - 1)
                leading = [1] * dim
                shaped = factor.reshape(*factor.shape[:-1], *leading, factor.shape[-1], *trailing)
                products[name] = products[name] * shaped if name in products else shaped
        return products

    @override
    def coupled_path(self, other: Posterior) -> PosteriorPath:
        second = require_compatible(self, other)
        if second.unattached.keys() != self._unattached.keys():
            differing = sorted(second.unattached.keys() ^ self._unattached.keys())
            message = f"expected the same noise in both posteriors for the coupled path, got {differing} in one only"
            raise NoClosedFormError(message)
        return self.linear_path(second)

    @override
    def _permuted_unattached(self, permutation: Permutation) -> dict[str, Tensor]:
        return {source.key: _permuted_units(permutation, source, source.rate) for source in self.noise}

    @override
    def _transformed_fields(self, element: SymmetryElement) -> Fields:
        for source in self.noise:
            require_unshifted(self.kind, element, (name for name, _ in source.targets))
            for name, dim in source.targets:
                for slot, linear in acting_on(element, name):
                    if slot.dim == dim and not linear.kind.is_factor:
                        raise_not_closed(self.kind, linear, f"it mixes units of `{name}` that have independent noise")
        return super()._transformed_fields(element)

    @override
    def _transform_noise(self, element: SymmetryElement, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self.permute_noise(element.permutation, noise)

    @classmethod
    @override
    def _rebuild(cls, fields: Fields, unattached: Mapping[str, Tensor], auxiliary: AuxiliaryTensors) -> Self:
        noise = list(starmap(UnitNoise.from_key, unattached.items()))
        return cls(fields["mean"], noise, **auxiliary.options)


def _permuted_units(permutation: Permutation, source: UnitNoise, units: Tensor) -> Tensor:
    """Return a tensor ``[*lead, n]`` over the units of noise, permuted as the axis of its first target."""
    name, dim = source.targets[0]
    return permutation.apply_to_axes(name, units, [dim])
