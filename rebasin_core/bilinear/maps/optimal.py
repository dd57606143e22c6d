r"""Optimal maps: the $g$ that maximizes $\langle S, g \rangle$, for similarities $S$ between units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.pairs import Pairs

if TYPE_CHECKING:
    from torch import Tensor


def best_map(kind: Kind, similarity: Tensor, *, pairs: Pairs = Pairs.HALVES) -> Tensor:
    r"""Return the map of a compact kind with the largest inner product with a similarity matrix.

    - orthogonal: the polar factor of $S$ (the Procrustes problem), with $S = U \Sigma V^\top$ it is $U V^\top$
    - orthogonal, with the ones fixed: the same on the complement of the ones
    - rotations: the angle of $\sum S_{ij}$ over each pair, as complex numbers
    - sign: the sign of the diagonal

    For an invertible map, or a nonzero factor, this is the optimal orthogonal map, or sign: the rest is determined by
    the gauge.

    Args:
        kind: The kind.
        similarity: ``[*outer, n, n]``: rows are reference units.
        pairs: The units that are a pair, for rotations.

    Returns:
        The map, with the shape of `Kind.map_shape`.

    Raises:
        InvalidInputError: If the kind has no compact maps but the identity.

    References:
        P. Schönemann (1966), "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31.
    """
    match kind:
        case Kind.ORTHOGONAL | Kind.INVERTIBLE:
            return _polar_factor(similarity)
        case Kind.ORTHOGONAL_FIXING_ONES:
            return _polar_factor_fixing_ones(similarity)
        case Kind.ROTATION:
            return _angles(similarity, pairs)
        case Kind.SIGN | Kind.FLIP | Kind.NONZERO:
            diagonal = similarity.diagonal(dim1=-2, dim2=-1)
            return torch.where(diagonal < 0, -1.0, 1.0).to(similarity.dtype)
        case Kind.POSITIVE:
            message = "positive factors are determined by the gauge alone"
            raise InvalidInputError(message)


def best_value(kind: Kind, similarity: Tensor, *, pairs: Pairs = Pairs.HALVES) -> Tensor:
    """Return the inner product of a similarity matrix with its optimal map.

    Args:
        kind: The kind.
        similarity: ``[*outer, n, n]``.
        pairs: The units that are a pair, for rotations.

    Returns:
        ``[*outer]``.
    """
    match kind:
        case Kind.ORTHOGONAL | Kind.INVERTIBLE:
            return _nuclear_norm(similarity)
        case Kind.ORTHOGONAL_FIXING_ONES:
            inner, mean = _without_ones(similarity)
            return _nuclear_norm(inner) + mean
        case Kind.ROTATION:
            return _complex(similarity, pairs).abs().sum(-1)
        case Kind.SIGN | Kind.FLIP | Kind.NONZERO:
            return similarity.diagonal(dim1=-2, dim2=-1).abs().sum(-1)
        case Kind.POSITIVE:
            return similarity.diagonal(dim1=-2, dim2=-1).sum(-1)


def can_improve(kind: Kind, similarity: Tensor, tolerance: float) -> bool:
    r"""Return whether a map of a kind may have a larger inner product with a similarity matrix than the identity.

    Let $H$ and $K$ be the symmetric and the skew-symmetric part of $S$, and $d = \lVert g - I \rVert$ for an orthogonal
    $g$. If $H - h I$ is positive semidefinite, then

    $$
    \langle S, g \rangle - \operatorname{tr} S \le \lVert K \rVert d - \tfrac{h}{2} d^2 \le \lVert K \rVert^2 / 2 h
    $$

    A Cholesky decomposition decides this, in a fraction of the time of a singular value decomposition.

    Args:
        kind: The kind.
        similarity: ``[*outer, n, n]``.
        tolerance: Difference of inner products, summed over the outer units, that is no improvement; positive.

    Returns:
        False if no map improves by more than the tolerance; True if one may, or if this is not decided for the kind.
    """
    match kind:
        case Kind.ORTHOGONAL | Kind.INVERTIBLE:
            given = similarity
        case Kind.ORTHOGONAL_FIXING_ONES:
            given, _ = _without_ones(similarity)
        case _:
            return True
    skew = (given - given.mT).square_().sum().item() / 4
    symmetric = (given + given.mT).mul_(0.5)
    symmetric.diagonal(dim1=-2, dim2=-1).sub_(skew / (2 * tolerance))
    return bool(torch.linalg.cholesky_ex(symmetric).info.any())


def _nuclear_norm(similarity: Tensor) -> Tensor:
    values: Tensor = torch.linalg.svdvals(similarity).sum(-1)
    return values


def _polar_factor(similarity: Tensor) -> Tensor:
    left, _, right = torch.linalg.svd(similarity, full_matrices=False)
    factor: Tensor = left @ right
    return factor


def _polar_factor_fixing_ones(similarity: Tensor) -> Tensor:
    inner, _ = _without_ones(similarity)
    whole = torch.zeros_like(similarity)
    whole[..., 0, 0] = 1
    whole[..., 1:, 1:] = _polar_factor(inner)
    return _reflected(whole)


def _without_ones(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Return a similarity matrix on the complement of the ones, and its part along them."""
    return _reflected(similarity)[..., 1:, 1:], similarity.sum((-2, -1)) / similarity.shape[-1]


def _reflected(matrix: Tensor) -> Tensor:
    """Return H M H, with the reflection H that exchanges the first unit vector and the normalized vector of ones.

    Products with a reflection are updates of rank one, so no matrix product is computed.
    """
    normal = _normal_of_ones(matrix)
    scale = 2 / normal.square().sum().clamp_min(torch.finfo(normal.dtype).tiny)
    rows = matrix - (scale * normal).unsqueeze(-1) * (normal @ matrix).unsqueeze(-2)
    return rows.sub_((rows @ normal).unsqueeze(-1) * (scale * normal))


def _normal_of_ones(like: Tensor) -> Tensor:
    """Return the difference of the normalized vector of ones and the first unit vector."""
    size = like.shape[-1]
    normal = torch.full((size,), size**-0.5, dtype=like.dtype, device=like.device)
    normal[0] -= 1
    return normal


def complement_of_ones(like: Tensor) -> Tensor:
    """Return an orthonormal basis of the vectors with sum zero: columns of a Householder matrix.

    Args:
        like: A tensor whose last dimension has n entries.

    Returns:
        ``[n, n - 1]``, in the dtype and on the device of ``like``.
    """
    normal = _normal_of_ones(like)
    matrix = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
    matrix -= 2 * torch.outer(normal, normal) / normal.square().sum()
    return matrix[:, 1:]


def _complex(similarity: Tensor, pairs: Pairs) -> Tensor:
    """Return the products of every pair of units as complex numbers: reference times conjugate candidate."""
    diagonal = [
        [part.diagonal(dim1=-2, dim2=-1) for part in pairs.parts(rows, -1)] for rows in pairs.parts(similarity, -2)
    ]
    return torch.complex(diagonal[0][0] + diagonal[1][1], diagonal[1][0] - diagonal[0][1])


def _angles(similarity: Tensor, pairs: Pairs) -> Tensor:
    total = _complex(similarity, pairs)
    size = total.abs()
    unit = torch.where(size > 0, total / size.clamp_min(torch.finfo(size.dtype).tiny), torch.ones_like(total))
    return torch.view_as_real(unit)
