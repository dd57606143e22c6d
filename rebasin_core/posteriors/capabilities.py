"""Abilities that only some posteriors have, each an abstract class of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

import torch
from typing_extensions import override

from rebasin_core.posteriors.base import Posterior

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.symmetry.permutation import Permutation

PosteriorPath: TypeAlias = Callable[[float], Posterior]
"""A path of posteriors: a function of the interpolation coefficient t in [0, 1]."""


class AbstractLogDensity(ABC):
    """A posterior with a density.

    Laws:
        - *Invariance*: ``permute(g).log_prob(g(x)) == log_prob(x)``, and the entropy does not change.
    """

    @abstractmethod
    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the log density at parameters.

        Args:
            parameters: Every random parameter, each ``[*lead, *s]``; buffers are ignored.

        Returns:
            ``[*lead]``, in nats, summed over all entries.
        """

    @abstractmethod
    def entropy(self) -> Tensor:
        """Return the differential entropy, a scalar in nats, summed over all entries."""


class AbstractCoupledPath(ABC):
    r"""A posterior with a path to others of its kind that stays within the kind, and is no 2-Wasserstein geodesic.

    Samples of the two endpoints are coupled by their noise and move on straight lines. A geodesic is a property of two
    distributions and is registered for a pair (`register_geodesic`); this path is a property of one representation.

    Laws:
        - *Endpoints*: ``coupled_path(other)(0)`` is this posterior and ``coupled_path(other)(1)`` is the other one.
        - *Mean*: linear in t.
    """

    @abstractmethod
    def coupled_path(self, other: Posterior) -> PosteriorPath:
        """Return the path to another posterior.

        Args:
            other: A posterior of the same class over the same tensors.

        Returns:
            A function of t in [0, 1]; its posteriors have noise that is compatible with that of the endpoints (common
            random numbers).

        Raises:
            InvalidInputError: If the other posterior is of another class or has other tensors.
            NoClosedFormError: If this kind has no such path between these two.
        """


class AbstractIndependentGaussian(Posterior):
    """A posterior with independent Gaussian entries: the mean and the standard deviation determine it.

    A standard deviation may be zero; a single network is the case where all are. Two such posteriors have a distance
    and a barycenter in closed form, and a network under such a posterior can be evaluated by sampling the outputs of
    its layers.

    Laws:
        - *Gaussian*: samples are distributed as ``mean + stddev * z`` with independent standard normal ``z``.
    """

    @final
    @property
    def noisy_names(self) -> frozenset[str]:
        """The parameters with a standard deviation above zero somewhere."""
        if self.is_point:
            return frozenset()
        return frozenset(name for name, stddev in self.stddev.items() if bool((stddev > 0).any()))


class AbstractMixture(Posterior):
    r"""A posterior that is a weighted mixture $\sum_k w_k q_k$ of others: samples, ensembles, mixtures of Gaussians.

    Laws:
        - *Moments*: the mean is the weighted mean of the components' means.
    """

    @property
    @abstractmethod
    def components(self) -> tuple[Posterior, ...]:
        """The K components, posteriors over the same tensors."""

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """The normalized weights ``[K]``."""

    @abstractmethod
    def permute_each(self, permutations: Sequence[Permutation]) -> Self:
        """Return the mixture with each component permuted by a group element of its own.

        The predictive distribution does not change; the distribution over weights does.

        Args:
            permutations: One per component.

        Returns:
            The mixture of the permuted components.

        Raises:
            InvalidInputError: If their number is another, or a layout does not fit.
        """

    @final
    @property
    def is_uniform(self) -> bool:
        """Whether all components have the same weight."""
        weights = self.weights
        return torch.allclose(weights, torch.full_like(weights, 1 / len(weights)))

    def at_quantiles(  # ruff: ignore[no-self-use] - overridden where the choice of components is known
        self, noise: Mapping[str, Tensor], quantiles: Tensor
    ) -> dict[str, Tensor]:
        """Return noise whose samples are of the components at given quantiles of the weights, for stratified sampling.

        Args:
            noise: From `draw_noise` with the shape ``(n,)``.
            quantiles: ``[n]``, in [0, 1): a sample is of the first component at which the sum of the weights exceeds
                its quantile.

        Returns:
            The noise; unchanged, with components drawn independently, if a representation does not override this.
        """
        del quantiles
        return dict(noise)


class AbstractEmpirical(AbstractMixture):
    """A mixture of finitely many single networks.

    Laws:
        - *Points*: ``is_point`` is true for every component.
    """

    @property
    @abstractmethod
    def num_samples(self) -> int:
        """The number K of networks."""

    @abstractmethod
    def member(self, index: int) -> Posterior:
        """Return one of the networks.

        Args:
            index: Its number, from 0 to K - 1.

        Returns:
            The network as a point.

        Raises:
            InvalidInputError: If there is no such network.
        """

    @final
    @property
    @override
    def components(self) -> tuple[Posterior, ...]:
        return tuple(self.member(index) for index in range(self.num_samples))
