"""Base class of Gaussian posteriors: flat vectors, dense covariances, distances and divergences."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.capabilities import AbstractIndependentGaussian, AbstractLogDensity
from rebasin_core.posteriors.pairs import register_kl, register_wasserstein
from rebasin_core.tensors.optimal_transport import squared_distance

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

DENSE_LIMIT = 10_000
"""Maximum number of random parameters for dense covariance matrices: 800 MB in float64."""


class AbstractGaussianPosterior(AbstractAttachedPosterior, AbstractLogDensity):
    r"""Gaussian $\mathcal N(m, \Sigma)$ over the random parameters; subclasses define the structure of $\Sigma$.

    Densities and entropies are over the *random* parameters only.

    Laws:
        - *Covariance*: samples have the covariance `covariance`.
    """

    @abstractmethod
    def _root(self) -> dict[str, Tensor]:
        r"""Return $A$ with $\Sigma = A^\top A$ for all random parameters, each ``[R, *s]``."""

    @final
    def covariance(self) -> Tensor:
        r"""Return $\Sigma$ over all P random parameters, in the order of `random_names`.

        Returns:
            Covariance ``[P, P]``.

        Raises:
            InvalidInputError: If there are more than 10,000 random parameters.
        """
        root = self.flat_root()
        return root.T @ root

    @final
    def flat_mean(self) -> Tensor:
        """Return the means of the random parameters as one vector ``[P]``, in the order of `random_names`."""
        mean = self._mean()
        return torch.cat([mean[name].flatten() for name in self.random_names])

    @final
    def root(self) -> dict[str, Tensor]:
        r"""Return $A$ with $\Sigma = A^\top A$.

        Returns:
            Root by name of the random parameters, each ``[R, *s]``.

        Raises:
            InvalidInputError: If there are more than 10,000 random parameters.
        """
        count = sum(tensor.numel() for tensor in self._mean().values())
        if count > DENSE_LIMIT:
            message = (
                f"expected at most {DENSE_LIMIT} random parameters for a dense covariance matrix, got {count} "
                "parameters; use marginal standard deviations, samples or densities"
            )
            raise InvalidInputError(message)
        return self._root()

    @final
    def flat_root(self, order: Sequence[str] | None = None) -> Tensor:
        r"""Return $A$ with $\Sigma = A^\top A$ as one matrix.

        Args:
            order: Names of the random parameters in the order of the columns; `random_names` if None.

        Returns:
            Root ``[R, P]``.

        Raises:
            InvalidInputError: If there are more than 10,000 random parameters.
        """
        root = self.root()
        return torch.cat([root[name].reshape(len(root[name]), -1) for name in order or self.random_names], dim=1)

    def as_distribution(self) -> torch.distributions.Distribution:
        """Return the distribution over flat vectors ``[P]``, in the order of `random_names`.

        Returns:
            A PyTorch distribution; with a dense covariance unless a subclass overrides this method.

        Raises:
            InvalidInputError: If the covariance is singular (there is no density), or is dense and there are more than
                10,000 random parameters.
        """
        return _dense_distribution(self, self.random_names)

    @override
    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        result: Tensor = self.as_distribution().log_prob(self._flat(parameters))
        return result

    @override
    def entropy(self) -> Tensor:
        result: Tensor = self.as_distribution().entropy()
        return result

    @final
    def _flat(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return parameters ``[*lead, *s]`` as vectors ``[*lead, P]``."""
        parts = [parameters[name] for name in self.random_names]
        dims = [self._dimensions(name) for name in self.random_names]
        return torch.cat([p.reshape(*p.shape[: p.dim() - d], -1) for p, d in zip(parts, dims, strict=True)], dim=-1)


def unit_rows(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the P x P identity matrix, with its columns split and reshaped as the given tensors.

    Args:
        tensors: Tensors by name, P entries in total.

    Returns:
        Rows by name, each ``[P, *s]``, with dtype and device of the first tensor.
    """
    sizes = [tensor.numel() for tensor in tensors.values()]
    first = next(iter(tensors.values()))
    rows = torch.eye(sum(sizes), dtype=first.dtype, device=first.device).split(sizes, dim=1)
    return {n: row.reshape(-1, *t.shape) for row, (n, t) in zip(rows, tensors.items(), strict=True)}


@register_wasserstein(AbstractGaussianPosterior, AbstractGaussianPosterior)
def gaussian_distance(first: AbstractGaussianPosterior, second: AbstractGaussianPosterior) -> float:
    r"""Return the 2-Wasserstein (Bures-Wasserstein) distance of two Gaussians.

    $$ W_2^2 = \lVert m_0 - m_1 \rVert^2 + \operatorname{tr} \Sigma_0 + \operatorname{tr} \Sigma_1
       - 2 \lVert A_0 A_1^\top \rVert_* $$

    with roots $A_i^\top A_i = \Sigma_i$ and the nuclear norm $\lVert \cdot \rVert_*$.

    Args:
        first: A Gaussian with at most 10,000 random parameters.
        second: A Gaussian with the same random parameters.

    Returns:
        The distance $W_2$.

    Raises:
        InvalidInputError: If the random parameters differ, or there are more than 10,000.

    References:
        M. Gelbrich (1990), "On a formula for the L2 Wasserstein metric between measures on Euclidean and Hilbert
        spaces", Math. Nachr. 147.
    """
    require_same_random(first, second)
    root = first.to(dtype=torch.float64).flat_root()
    other = second.to(dtype=torch.float64).flat_root(first.random_names)
    squared = squared_distance(first.mean, second.mean)
    squared += root.square().sum().item() + other.square().sum().item()
    squared -= 2 * torch.linalg.svdvals(root @ other.T).sum().item()
    return math.sqrt(max(squared, 0.0))


@register_wasserstein(AbstractGaussianPosterior, AbstractIndependentGaussian)
def _distance_from_independent(first: AbstractGaussianPosterior, second: AbstractIndependentGaussian) -> float:
    """Return the distance of `gaussian_distance` for a second covariance that is diagonal (zero for a point mass)."""
    root = first.to(dtype=torch.float64).flat_root()
    stddev = second.stddev
    squared = squared_distance(first.mean, second.mean) + root.square().sum().item()
    squared += sum(tensor.double().square().sum().item() for tensor in stddev.values())
    if second.noisy_names.intersection(first.random_names):
        diagonal = torch.cat([stddev[name].flatten() for name in first.random_names]).to(root)
        squared -= 2 * torch.linalg.svdvals(root * diagonal).sum().item()
    return math.sqrt(max(squared, 0.0))


@register_kl(AbstractGaussianPosterior, AbstractGaussianPosterior)
def gaussian_divergence(first: AbstractGaussianPosterior, second: AbstractGaussianPosterior) -> float:
    """Return the KL divergence of two Gaussians, computed from dense covariances.

    Args:
        first: A Gaussian with at most 10,000 random parameters.
        second: A Gaussian with the same random parameters.

    Returns:
        The divergence, in nats.

    Raises:
        InvalidInputError: If the random parameters differ, there are more than 10,000, or a covariance is singular.
    """
    require_same_random(first, second)
    dense = [_dense_distribution(q, first.random_names) for q in (first, second)]
    return torch.distributions.kl_divergence(*dense).item()


def require_same_random(first: AbstractGaussianPosterior, second: AbstractGaussianPosterior) -> None:
    """Raise if a parameter is random in only one of two Gaussians.

    Args:
        first: A Gaussian.
        second: Another Gaussian.

    Raises:
        InvalidInputError: If there is such a parameter; the message lists all of them.
    """
    differing = sorted(set(first.random_names) ^ set(second.random_names))
    if differing:
        message = f"expected the same random parameters in both posteriors, got {differing} in one only"
        raise InvalidInputError(message)


def _dense_distribution(
    posterior: AbstractGaussianPosterior, order: Sequence[str]
) -> torch.distributions.MultivariateNormal:
    """Return the distribution over flat vectors ``[P]``, with the random parameters in a given order."""
    root = posterior.flat_root(order)
    factor, failed = torch.linalg.cholesky_ex(root.T @ root)
    if int(failed):
        message = "expected a positive definite covariance for a density, got a singular one"
        raise InvalidInputError(message)
    mean = posterior.mean
    flat = torch.cat([mean[name].flatten() for name in order])
    return torch.distributions.MultivariateNormal(flat, scale_tril=factor, validate_args=False)
