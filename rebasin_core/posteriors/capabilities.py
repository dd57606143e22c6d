"""Abstract classes for properties that only some posteriors have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

import torch
from typing_extensions import override

from rebasin_core.posteriors.base import Posterior
from rebasin_core.posteriors.transformation import raise_not_closed
from rebasin_core.symmetry.symmetry_element import SymmetryElement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.symmetry.permutation import GroupElement, Permutation

PosteriorPath: TypeAlias = Callable[[float], Posterior]
"""Path of posteriors: a function of the interpolation coefficient t in [0, 1]."""


class AbstractLogDensity(ABC):
    """Posterior with a density.

    Laws:
        - *Invariance*: ``q.permute(g).log_prob(g.apply(x)) == q.log_prob(x)``, and ``q.permute(g)`` has the entropy
          of ``q``.
    """

    @abstractmethod
    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the log density at given parameters.

        Args:
            parameters: All random parameters, each ``[*lead, *s]``; other tensors are ignored.

        Returns:
            Log densities ``[*lead]``, in nats, summed over all parameters.
        """

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return the differential entropy over all random parameters, a scalar in nats."""


class AbstractCoupledPath(ABC):
    r"""Posterior with an interpolation of coupled noise to another posterior of the same class.

    Samples of the endpoints that have the same noise are interpolated linearly; all points on the path have the class
    of the endpoints. The path is in general not a 2-Wasserstein geodesic (for geodesics, see `register_geodesic`).

    Laws:
        - *Endpoints*: ``p.coupled_path(q)`` is ``p`` at t = 0 and ``q`` at t = 1.
        - *Mean*: the mean is linear in t.
    """

    @abstractmethod
    def coupled_path(self, other: Posterior) -> PosteriorPath:
        """Return the path to another posterior.

        Args:
            other: Posterior at t = 1, of the same class and over the same tensors.

        Returns:
            A function of t in [0, 1]. All its posteriors accept the same noise (common random numbers).

        Raises:
            InvalidInputError: If the other posterior has another class or other tensors.
            NoClosedFormError: If there is no such path between these two posteriors, for example for other ranks.
        """


class AbstractIndependentGaussian(Posterior):
    """Gaussian posterior with independent entries, defined by its mean and standard deviation.

    Standard deviations may be zero; for a point mass all are. Such posteriors have 2-Wasserstein distances and
    barycenters in closed form, and allow local reparameterization (sampling pre-activations instead of weights).

    Laws:
        - *Gaussian*: samples are distributed as ``mean + stddev * z`` with independent standard normal ``z``.
    """

    @final
    @property
    def noisy_names(self) -> frozenset[str]:
        """Names of the parameters that have an entry with positive standard deviation."""
        if self.is_point:
            return frozenset()
        return frozenset(name for name, stddev in self.stddev.items() if bool((stddev > 0).any()))


class AbstractMixture(Posterior):
    r"""Weighted mixture $\sum_k w_k q_k$ of posteriors: MCMC samples, ensembles, mixtures of Gaussians.

    Laws:
        - *Moments*: the mean is the weighted mean of the means of the components.
    """

    @property
    @abstractmethod
    def components(self) -> tuple[Posterior, ...]:
        """The K components $q_k$, over the same tensors."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """Weights $w_k$, ``[K]``, which sum to 1."""

    @abstractmethod
    def permute_each(self, permutations: Sequence[Permutation]) -> Self:
        """Return the mixture in which each component is permuted by its own permutation.

        This changes the distribution over weights, but not the predictive distribution.

        Args:
            permutations: K permutations, one per component.

        Returns:
            The mixture of the permuted components.

        Raises:
            InvalidInputError: If the number of permutations is not K, or a layout does not fit.
        """

    def transform_each(self, elements: Sequence[GroupElement]) -> Self:
        """Return the mixture in which each component is transformed by its own group element.

        This implementation supports permutations only. Representations override it.

        Args:
            elements: K group elements, one per component.

        Returns:
            The mixture of the transformed components.

        Raises:
            InvalidInputError: If the number of elements is not K, a layout does not fit, or a component is not closed
                under its element.
        """
        maps = [e.linear_maps.acting() for e in elements if isinstance(e, SymmetryElement)]
        for acting in maps:
            if acting:
                raise_not_closed(self.kind, acting[0], "it does not define `transform_each`")
        return self.permute_each([element.permutation for element in elements])

    @final
    @property
    def is_uniform(self) -> bool:
        """Whether all components have the same weight."""
        weights = self.weights
        return torch.allclose(weights, torch.full_like(weights, 1 / len(weights)))

    def at_quantiles(  # ruff: ignore[no-self-use] - overridden by representations that select components by noise
        self, noise: Mapping[str, Tensor], quantiles: Tensor
    ) -> dict[str, Tensor]:
        """Return noise that selects components by given quantiles of the weights, for stratified sampling.

        This implementation returns the noise unchanged, with independently selected components. Representations
        override it.

        Args:
            noise: Noise from `draw_noise` with the shape ``(n,)``.
            quantiles: ``[n]``, in [0, 1). Sample i is from the first component k at which $w_1 + ... + w_k$ exceeds
                ``quantiles[i]``.

        Returns:
            The noise.
        """
        del quantiles
        return dict(noise)


class AbstractEmpirical(AbstractMixture):
    """Mixture of finitely many single networks.

    Laws:
        - *Point masses*: ``is_point`` is true for every component.
    """

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """Number K of networks."""

    @property
    @abstractmethod
    def chains(self) -> Tensor:
        """Index of the chain of each network, ``[K]`` integers; networks of a chain are sorted by time."""

    @abstractmethod
    def member(self, index: int) -> Posterior:
        """Return one of the networks.

        Args:
            index: Index of the network, from 0 to K - 1.

        Returns:
            The network as a point mass.

        Raises:
            InvalidInputError: If the index is out of range.
        """

    @final
    @property
    @override
    def components(self) -> tuple[Posterior, ...]:
        return tuple(self.member(index) for index in range(self.num_samples))
