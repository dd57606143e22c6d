"""Barycenters of all posteriors of a collection but one, in a time that does not grow with their number."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch

from rebasin_core.posteriors.barycenters import barycenter_or_moments
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior, weighted_moments
from rebasin_core.posteriors.pairs import BARYCENTER
from rebasin_core.posteriors.point import PointPosterior, weighted_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior


@final
class LeaveOneOut:
    r"""Barycenters of all posteriors but one, while posteriors are replaced.

    The barycenter of single networks or of independent Gaussians has the weighted means of their means and of their
    standard deviations (as has the `moment_barycenter` of any others). These sums are kept in double precision; the
    barycenter without $q_k$ subtracts its terms. Barycenters of other representations are computed from all posteriors.

    Args:
        posteriors: At least one posterior, all over the same tensors.
        weights: Weight of each posterior; they sum to 1.
    """

    def __init__(self, posteriors: Sequence[Posterior], weights: Sequence[float]) -> None:
        self._posteriors = list(posteriors)
        self._weights = list(weights)
        self._is_point = False
        self._moments: list[dict[str, Tensor]] = []
        function = BARYCENTER.find(posteriors)
        if function in {None, weighted_mean, weighted_moments}:
            self._is_point = function is weighted_mean
            self._moments = self._sums()

    def __getitem__(self, index: int) -> Posterior:
        """Return the current posterior at an index."""
        return self._posteriors[index]

    @property
    def posteriors(self) -> tuple[Posterior, ...]:
        """The current posteriors."""
        return tuple(self._posteriors)

    def replace(self, index: int, posterior: Posterior) -> None:
        """Replace a posterior.

        Args:
            index: Its index.
            posterior: The new posterior, over the same tensors.
        """
        old, weight = self._posteriors[index], self._weights[index]
        self._posteriors[index] = posterior
        if not self._moments:
            return
        for total, before, after in zip(self._moments, self._parts(old), self._parts(posterior), strict=True):
            for name, tensor in total.items():
                tensor.add_(after[name].to(tensor) - before[name].to(tensor), alpha=weight)

    def refresh(self) -> None:
        """Recompute the sums; rounding then does not accumulate."""
        if self._moments:
            self._moments = self._sums()

    def without(self, index: int) -> Posterior | None:
        """Return the barycenter of all posteriors but one.

        Args:
            index: The index of the posterior to leave out.

        Returns:
            The barycenter; None if the weights of the others are zero.
        """
        others = [k for k in range(len(self._posteriors)) if k != index]
        rest = sum(self._weights[k] for k in others)
        if not rest > 0:
            return None
        if not self._moments:
            weights = [self._weights[k] for k in others]
            return barycenter_or_moments([self._posteriors[k] for k in others], weights)[0]
        like = self._posteriors[others[0]]
        own = self._parts(self._posteriors[index])
        mean, buffers, *further = [
            self._excluded(total, part, first, self._weights[index], rest)
            for total, part, first in zip(self._moments, own, self._parts(like), strict=True)
        ]
        if self._is_point:
            return PointPosterior(mean, buffers=buffers)
        stddev = {name: tensor.clamp_min(0) for name, tensor in further[0].items()}  # negative by rounding only
        return DiagonalGaussianPosterior(mean, stddev, buffers=buffers)

    def _parts(self, posterior: Posterior) -> list[Mapping[str, Tensor]]:
        """Return the mean, the buffers and, unless all are single networks, the standard deviation."""
        return [posterior.mean, posterior.buffers, *([] if self._is_point else [posterior.stddev])]

    def _sums(self) -> list[dict[str, Tensor]]:
        """Return the weighted sums of all parts, without integer tensors."""
        sums: list[dict[str, Tensor]] = []
        for part in self._parts(self._posteriors[0]):
            floats = {name: tensor for name, tensor in part.items() if _is_averaged(tensor)}
            sums.append({name: torch.zeros_like(tensor, dtype=_wide(tensor)) for name, tensor in floats.items()})
        for posterior, weight in zip(self._posteriors, self._weights, strict=True):
            for total, part in zip(sums, self._parts(posterior), strict=True):
                for name, tensor in total.items():
                    tensor.add_(part[name].to(tensor), alpha=weight)
        return sums

    @staticmethod
    def _excluded(
        total: Mapping[str, Tensor],
        own: Mapping[str, Tensor],
        first: Mapping[str, Tensor],
        weight: float,
        rest: float,
    ) -> dict[str, Tensor]:
        """Return the mean of all but one; integer tensors are those of the first of the others."""
        found: dict[str, Tensor] = {}
        for name, like in first.items():
            if name in total:
                found[name] = ((total[name] - weight * own[name].to(total[name])) / rest).to(like)
            else:
                found[name] = like.clone()
        return found


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.complex128 if tensor.is_complex() else torch.float64
