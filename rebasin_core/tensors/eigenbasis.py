"""Bases of Kronecker-factored covariances after linear maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

# Largest inner product of normalized rows, and second singular value relative to the first, that are due to rounding.
_ROUNDING = 1e-5


def orthogonalized(basis: Tensor, scale: Tensor, axis: int) -> tuple[Tensor, Tensor] | None:
    r"""Return an orthonormal basis and scales of the distribution that a basis and independent scales define.

    The distribution is that of $U^\top (S \odot Z)$ with standard normal $Z$, for rows of $U$ that are linearly
    independent.

    Args:
        basis: The rows $U$ of one axis, ``[n, n]``.
        scale: Standard deviations $S$, ``[n]`` or ``[n, m]``.
        axis: Dimension of ``scale`` that belongs to the basis: 0 or 1.

    Returns:
        An orthonormal basis and scales of the same shapes, in the given dtypes; None if there are none, since the
        distribution is not that of independent scales in a product of bases.
    """
    rows = basis.double()
    scales = scale.double().movedim(axis, 0)
    norms = rows.square().sum(1).sqrt()
    unit = rows / norms[:, None]
    error = (unit @ unit.T - torch.eye(len(unit), dtype=unit.dtype, device=unit.device)).abs().max().item()
    if error <= _ROUNDING:
        scaled = scales * norms.reshape(-1, *[1] * (scales.dim() - 1))
        return unit.to(basis), scaled.movedim(0, axis).to(scale)
    own, other = _separated(scales)
    if own is None:
        return None
    _, singular, right = torch.linalg.svd(own[:, None] * rows)
    scaled = singular if other is None else torch.outer(singular, other)
    return right.to(basis), scaled.movedim(0, axis).to(scale)


def _separated(scales: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return the factors of an outer product; None for the first if the matrix is not one."""
    if scales.dim() == 1:
        return scales, None
    largest = scales.sum(0).argmax()
    own = scales[:, largest]
    if not bool(own.any()):
        return own, scales[0]
    other = own @ scales / own.square().sum()
    error = (scales - torch.outer(own, other)).abs().max().item()
    return (own if error <= _ROUNDING * scales.max().item() else None), other
