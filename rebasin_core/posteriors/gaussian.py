"""What all Gaussian posteriors share: flat vectors, and the dense form that is the oracle of the others."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.base import AbstractLogDensity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

DENSE_LIMIT = 10_000
"""The most random parameters for which a covariance matrix is formed: 800 megabytes in float64."""


class AbstractGaussianPosterior(AbstractAttachedPosterior, AbstractLogDensity):
    r"""A Gaussian $\mathcal N(m, \Sigma)$ over the random parameters, with some structure of $\Sigma$.

    Densities are those over the *random* parameters: fixed ones have none.

    Laws:
        - *Covariance*: samples have the covariance that `covariance` gives.
    """

    @abstractmethod
    def _root(self) -> dict[str, Tensor]:
        r"""Return the rows of a root of the covariance, for every random parameter."""

    @final
    def covariance(self) -> Tensor:
        r"""Return $\Sigma$ over all random parameters, in the order of `random_names`.

        Returns:
            ``[P, P]``.

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
            ``[R, *s]`` for every random parameter.

        Raises:
            InvalidInputError: If there are more than 10,000 random parameters.
        """
        count = sum(tensor.numel() for tensor in self._mean().values())
        if count > DENSE_LIMIT:
            message = (
                f"a covariance matrix over {count} parameters was asked for; expected at most {DENSE_LIMIT}. Use what "
                "the structure gives: marginal standard deviations, samples, densities"
            )
            raise InvalidInputError(message)
        return self._root()

    @final
    def flat_root(self, order: Sequence[str] | None = None) -> Tensor:
        r"""Return $A$ with $\Sigma = A^\top A$ as one matrix.

        Args:
            order: The names of the random parameters, in the order that the columns shall have; `random_names` if not
                given.

        Returns:
            ``[R, P]``.

        Raises:
            InvalidInputError: If there are more than 10,000 random parameters.
        """
        root = self.root()
        return torch.cat([root[name].reshape(len(root[name]), -1) for name in order or self.random_names], dim=1)

    def as_distribution(self) -> torch.distributions.Distribution:
        """Return the distribution over flat vectors ``[P]``, in the order of `random_names`.

        Returns:
            PyTorch's distribution: here that of the dense covariance.

        Raises:
            InvalidInputError: If the covariance is singular, so that there is no density.
        """
        factor, failed = torch.linalg.cholesky_ex(self.covariance())
        if int(failed):
            message = "the covariance is singular, so there is no density; expected a positive definite one"
            raise InvalidInputError(message)
        return torch.distributions.MultivariateNormal(self.flat_mean(), scale_tril=factor, validate_args=False)

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
    """Return the identity matrix over all entries of some tensors, each row in the tensors' shapes.

    Args:
        tensors: Of P entries together.

    Returns:
        ``[P, *s]`` for every name, in the dtype and on the device of the first tensor.
    """
    sizes = [tensor.numel() for tensor in tensors.values()]
    first = next(iter(tensors.values()))
    rows = torch.eye(sum(sizes), dtype=first.dtype, device=first.device).split(sizes, dim=1)
    return {n: row.reshape(-1, *t.shape) for row, (n, t) in zip(rows, tensors.items(), strict=True)}
