"""Gaussian summaries of mixtures by moment matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.full_gaussian import FullGaussianPosterior
from rebasin_core.posteriors.gaussian import AbstractGaussianPosterior
from rebasin_core.posteriors.low_rank_gaussian import LowRankGaussianPosterior

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.posteriors.auxiliary import AuxiliaryOptions
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.posteriors.capabilities import AbstractMixture

SummaryKind: TypeAlias = Literal["diagonal_gaussian", "low_rank_gaussian", "full_gaussian"]


def gaussian_summary(mixture: AbstractMixture, kind: SummaryKind, rank: int) -> Posterior:
    """Return the Gaussian with the mean and the marginal standard deviations of a mixture (moment matching).

    Args:
        mixture: Posterior samples, or a mixture of K posteriors.
        kind: ``diagonal_gaussian``; ``low_rank_gaussian``, whose factor consists of the first principal components of
            the means; or ``full_gaussian``, with the covariance of the mixture.
        rank: Rank of the factor of a ``low_rank_gaussian``, at most K - 1; larger values are reduced to K - 1.

    Returns:
        The Gaussian.

    Raises:
        InvalidInputError: For ``full_gaussian``, if a component is neither a point mass nor a Gaussian.
    """
    names = _random_names(mixture)
    mean = {name: tensor for name, tensor in mixture.mean.items() if name in names}
    stddev = {name: tensor for name, tensor in mixture.stddev.items() if name in names}
    fixed = {name: tensor for name, tensor in mixture.mean.items() if name not in names}
    rest: AuxiliaryOptions = {"fixed": fixed, "buffers": mixture.buffers, "prior": None}
    if kind == "diagonal_gaussian":
        return DiagonalGaussianPosterior(mean, stddev, **rest)
    rows = _deviations(mixture, mean)
    if kind == "full_gaussian":
        parts = [rows, *_roots(mixture, mean)]
        return FullGaussianPosterior(mean, {n: torch.cat([part[n] for part in parts]) for n in mean}, **rest)
    factor = _principal(rows, min(rank, len(mixture.weights) - 1))
    diagonal = {n: (s.square() - factor[n].square().sum(0)).clamp_min(0).sqrt() for n, s in stddev.items()}
    return LowRankGaussianPosterior(mean, diagonal, factor, **rest)


def _random_names(mixture: AbstractMixture) -> tuple[str, ...]:
    """Return the names of the random parameters of a mixture."""
    if isinstance(mixture, AbstractAttachedPosterior):
        return mixture.random_names
    return tuple(name for name, tensor in mixture.stddev.items() if bool(tensor.any()))


def _deviations(mixture: AbstractMixture, mean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the deviations ``[K, *s]`` of the means of the components, times the square roots of their weights."""
    roots = mixture.weights.sqrt()
    means = [q.mean for q in mixture.components]
    return {
        name: roots.to(center).reshape(-1, *[1] * center.dim()) * (torch.stack([m[name] for m in means]) - center)
        for name, center in mean.items()
    }


def _principal(rows: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Return the first principal components of rows ``[K, *s]``, ``[count, *s]``, by decreasing variance."""
    gram = sum(t.reshape(len(t), -1).double() @ t.reshape(len(t), -1).double().T for t in rows.values())
    _, vectors = torch.linalg.eigh(torch.as_tensor(gram))
    directions = vectors[:, -count:].T.flip(0)
    return {name: torch.tensordot(directions.to(t), t, dims=1) for name, t in rows.items()}


def _roots(mixture: AbstractMixture, like: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Return roots ``[R, *s]`` of the covariances of the components, times the square roots of their weights."""
    roots: list[dict[str, Tensor]] = []
    for component, weight in zip(mixture.components, mixture.weights.sqrt().tolist(), strict=True):
        if component.is_point:
            continue
        if not isinstance(component, AbstractGaussianPosterior):
            message = (
                f"expected point masses or Gaussians for a `full_gaussian` summary, got a component of kind "
                f"{component.kind!r}; use `diagonal_gaussian` or `low_rank_gaussian`, or summarize samples of it"
            )
            raise InvalidInputError(message)
        root = component.root()
        count = len(next(iter(root.values())))
        roots.append({
            name: weight * root[name] if name in root else tensor.new_zeros((count, *tensor.shape))
            for name, tensor in like.items()
        })
    return roots
