"""Barycentres: one distribution in the middle of many."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.diagonal_gaussian import DiagonalGaussianPosterior
from rebasin_core.posteriors.full_gaussian import FullGaussianPosterior
from rebasin_core.posteriors.pairing import normalised_weights, require_same_tensors
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.optimal_transport import assigned_onto, orthogonal_procrustes, squared_distance

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.posteriors.base import Posterior

Weights: TypeAlias = Sequence[float] | Mapping[str, Sequence[float]]
"""One weight a posterior; or such weights by pattern of the tensors' names, of which the first that matches counts."""

_ROUNDS = 50
_STILL = 1e-7


def barycenter(posteriors: Sequence[Posterior], weights: Weights | None = None) -> Posterior:
    r"""Return the 2-Wasserstein barycentre $\operatorname*{argmin}_q \sum_k w_k\, W_2^2(q, q_k)$ of posteriors.

    - Points: the weighted mean.
    - Independent Gaussians: the weighted means of means and of *standard deviations*, exactly.
    - Dense Gaussians: the fixed point of Alvarez-Esteban et al., on roots of the covariances.
    - Equally weighted samples, as many in each: the fixed point on free supports, samples assigned optimally.
    - Any others, or of several kinds: that of the independent Gaussians with their moments.

    Weights that differ from tensor to tensor are for points and independent Gaussians, whose entries are independent.

    Args:
        posteriors: At least one, of the same tensors.
        weights: See `Weights`; equal if not given. Buffers are averaged likewise; integers are the first posterior's.

    Returns:
        The barycentre, on the device of the first.

    Raises:
        InvalidInputError: If there is none, tensors differ, or weights do not fit.

    References:
        P. Alvarez-Esteban et al. (2016), "A fixed-point approach to barycenters in Wasserstein space", J. Math. Anal.
        Appl. 441, theorem 4.2; M. Cuturi, A. Doucet (2014), "Fast computation of Wasserstein barycenters", ICML,
        algorithm 2 (free supports).

    Example:
        >>> import torch
        >>> ends = (torch.tensor([0.0]), torch.tensor([1.0])), (torch.tensor([1.0]), torch.tensor([3.0]))
        >>> q, r = (DiagonalGaussianPosterior({"w": mean}, {"w": stddev}) for mean, stddev in ends)
        >>> middle = barycenter([q, r])
        >>> middle.mean["w"].item(), middle.stddev["w"].item()
        (0.5, 2.0)
    """
    if not posteriors:
        message = "expected at least one posterior, got none"
        raise InvalidInputError(message)
    first = posteriors[0]
    for other in posteriors[1:]:
        require_same_tensors(first.mean, other.mean, "a posterior")
        require_same_tensors(first.buffers, other.buffers, "the buffers of a posterior")
    shares = _Shares(weights, len(posteriors))
    buffers = shares.mean([q.buffers for q in posteriors])
    kinds = {type(q) for q in posteriors}
    if kinds == {PointPosterior}:
        return PointPosterior(shares.mean([q.mean for q in posteriors]), buffers=buffers)
    if shares.uniform_over_tensors is not None:
        if kinds == {FullGaussianPosterior}:
            return _dense([q for q in posteriors if isinstance(q, FullGaussianPosterior)], shares, buffers)
        sets = [q for q in posteriors if isinstance(q, SamplesPosterior)]
        if len(sets) == len(posteriors) and all(q.is_uniform for q in sets) and len({q.num_samples for q in sets}) == 1:
            return _free_support(sets, shares, buffers)
    mean, stddev = (shares.mean([getattr(q, part) for q in posteriors]) for part in ("mean", "stddev"))
    return DiagonalGaussianPosterior(mean, stddev, buffers=buffers)


@final
class _Shares:
    """Weights that sum to one, for every tensor."""

    def __init__(self, weights: Weights | None, count: int) -> None:
        given = weights if weights is not None else [1.0] * count
        by_pattern = given if isinstance(given, Mapping) else {"*": given}
        self._by_pattern = {
            pattern: normalised_weights(torch.tensor(list(own), dtype=torch.float64), count)
            for pattern, own in by_pattern.items()
        }
        self._equal = torch.full((count,), 1 / count, dtype=torch.float64)

    @property
    def uniform_over_tensors(self) -> Tensor | None:
        """The weights, if they are the same for all tensors."""
        return self._by_pattern.get("*") if len(self._by_pattern) == 1 else None

    def of(self, name: str) -> Tensor:
        """Return the weights for a tensor; equal where no pattern matches."""
        return next((own for p, own in self._by_pattern.items() if fnmatch.fnmatchcase(name, p)), self._equal)

    def mean(self, every: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Return the weighted means of tensors; integers are those of the first."""
        found: dict[str, Tensor] = {}
        for name, first in every[0].items():
            if not first.is_floating_point():
                found[name] = first.clone()
                continue
            total = torch.zeros_like(first, dtype=torch.float64)
            for share, tensors in zip(self.of(name).tolist(), every, strict=True):
                total += share * tensors[name].to(first.device).double()
            found[name] = total.to(first.dtype)
        return found


def _dense(
    posteriors: Sequence[FullGaussianPosterior], shares: _Shares, buffers: Mapping[str, Tensor]
) -> FullGaussianPosterior:
    """Return the barycentre of dense Gaussians: every root is turned onto the present one, and averaged."""
    rows = max(q.rows for q in posteriors)
    roots = [_padded(q.root(), rows) for q in posteriors]
    current = roots[0]
    for _ in range(_ROUNDS):
        moved = shares.mean([orthogonal_procrustes(current, root) for root in roots])
        size = squared_distance(moved, {name: torch.zeros_like(tensor) for name, tensor in moved.items()})
        still = squared_distance(moved, current) <= _STILL**2 * size
        current = moved
        if still:
            break
    fixed = [{n: t for n, t in q.mean.items() if n not in q.random_names} for q in posteriors]
    mean = shares.mean([{n: q.mean[n] for n in q.random_names} for q in posteriors])
    return FullGaussianPosterior(mean, current, fixed=shares.mean(fixed), buffers=buffers)


def _free_support(
    posteriors: Sequence[SamplesPosterior], shares: _Shares, buffers: Mapping[str, Tensor]
) -> SamplesPosterior:
    """Return the barycentre of sets of samples: every set is assigned onto the present one, and averaged."""
    sets = [q.samples for q in posteriors]
    current: Mapping[str, Tensor] = sets[0]
    for _ in range(_ROUNDS):
        moved = shares.mean([assigned_onto(current, samples) for samples in sets])
        still = not squared_distance(moved, current)
        current = moved
        if still:
            break
    fixed = [{n: t for n, t in q.mean.items() if n not in q.random_names} for q in posteriors]
    return SamplesPosterior(current, fixed=shares.mean(fixed), buffers=buffers)


def _padded(root: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    return {name: torch.cat([t, t.new_zeros((rows - len(t), *t.shape[1:]))]) for name, t in root.items()}
