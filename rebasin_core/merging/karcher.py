"""The Karcher mean of directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from typing_extensions import override

from rebasin_core.merging.base import MergeMethod

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.merging.problem import MergeProblem

_ITERATIONS = 1000
_TOLERANCE = 1e-12


@final
class KarcherMerge(MergeMethod):
    r"""Karcher mean of the directions of two or more networks, separately for each tensor.

    With the unit vectors $u_k = \theta_k / \|\theta_k\|$ and the geodesic distance $d$ on the sphere, the result is

    $$ \Bigl(\sum_k w_k \|\theta_k\|\Bigr)\, \operatorname*{argmin}_{\|m\| = 1} \sum_k w_k\, d(m, u_k)^2 $$

    For two networks of equal norm, it is spherical linear interpolation. Tensors that are zero have no direction, and
    only contribute to the norm. The minimum is unique if the $u_k$ are in an open half sphere; otherwise the result is
    the stationary point that is found from the normalized weighted mean. The method is mergekit's ``karcher`` (equal
    weights there), with tolerance $10^{-12}$ instead of $10^{-5}$.

    Complexity:
        One pass over the tensors for their inner products; the iteration is then on K coefficients, because the mean is
        a linear combination of the $u_k$.

    References:
        H. Karcher (1977), "Riemannian center of mass and mollifier smoothing", Communications on Pure and Applied
        Mathematics 30. S. Buss, J. Fillmore (2001), "Spherical averages and applications to spherical splines and
        interpolation", ACM Transactions on Graphics 20, algorithm A1.

    Examples:
        >>> import torch
        >>> KarcherMerge().merge("w", list(torch.tensor([[2.0, 0.0], [0.0, 2.0]])), [1, 1])
        tensor([1.4142, 1.4142])
    """

    name: Literal["karcher"] = "karcher"

    @property
    @override
    def uses_base(self) -> bool:
        return False

    @override
    def _merge(self, problem: MergeProblem) -> Tensor:
        weights = torch.tensor(problem.weights, dtype=torch.float64)
        gram = problem.gram()
        norms = gram.diagonal().sqrt()
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        cosines = inverse.unsqueeze(1) * gram * inverse
        coefficients = karcher_coefficients(cosines, torch.where(norms > 0, weights, 0.0))
        combined = ((weights @ norms) * inverse * coefficients).to(problem.tensors[0].device)
        return problem.map_values(lambda values: combined @ values)


def karcher_coefficients(cosines: Tensor, weights: Tensor) -> Tensor:
    """Return the coefficients of the unit vectors in their Karcher mean.

    Args:
        cosines: ``[K, K]`` in float64: inner products of the unit vectors.
        weights: ``[K]``, nonnegative; normalized here.

    Returns:
        ``[K]``; zeros if all weights are zero.
    """
    total = weights.sum()
    if not total > 0:
        return torch.zeros_like(weights)
    shares = weights / total
    length = _norm(shares, cosines)
    mean = shares / length if length > _TOLERANCE else _first_of(shares)
    for _ in range(_ITERATIONS):
        along = (cosines @ mean).clamp(-1, 1)
        angles = along.acos()
        sines = angles.sin()
        # The limit for parallel vectors is 1; antiparallel vectors have no direction of descent.
        factors = shares * torch.where(sines > _TOLERANCE, angles / sines, (along > 0).double())
        tangent = factors - (factors @ along) * mean
        length = _norm(tangent, cosines)
        if length < _TOLERANCE:
            break
        mean = length.cos() * mean + length.sin() / length * tangent
        mean /= _norm(mean, cosines)
    return mean


def _norm(coefficients: Tensor, cosines: Tensor) -> Tensor:
    return (coefficients @ cosines @ coefficients).clamp_min(0).sqrt()


def _first_of(weights: Tensor) -> Tensor:
    """Return the coefficients of the first vector of positive weight, alone."""
    first = torch.zeros_like(weights)
    first[int((weights > 0).double().argmax())] = 1.0
    return first
