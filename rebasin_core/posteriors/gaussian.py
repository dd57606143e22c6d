"""What all Gaussian posteriors share: flat vectors, and the dense form that is the oracle of the others."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.base import AbstractLogDensity

if TYPE_CHECKING:
    from collections.abc import Mapping

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
        root = self.root()
        rows = torch.cat([root[name].reshape(len(root[name]), -1) for name in self.random_names], dim=1)
        return rows.T @ rows

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
    def _flat(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return parameters ``[*lead, *s]`` as vectors ``[*lead, P]``."""
        parts = [parameters[name] for name in self.random_names]
        dims = [self._dimensions(name) for name in self.random_names]
        return torch.cat([p.reshape(*p.shape[: p.dim() - d], -1) for p, d in zip(parts, dims, strict=True)], dim=-1)
