"""Sinkhorn's normalisation: from any matrix to a doubly stochastic one, differentiated implicitly."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from rebasin_core.errors import ConvergenceWarning

if TYPE_CHECKING:
    from torch import Tensor

# Scalings beyond this are taken into the logarithms, so that nothing over- or underflows.
_LARGEST_SCALING = 1e6
_STEPS = 5
# Against the direction in which row and column shifts cancel, and rows that are all but permuted.
_RIDGE = 1e-13


def sinkhorn(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    iterations: int = 100,
    tolerance: float = 1e-5,
    unconverged: Literal["warn", "allow"] = "warn",
) -> Tensor:
    r"""Return the doubly stochastic matrix $P = \mathrm{diag}(u)\, e^{X / \tau}\, \mathrm{diag}(v)$, in the limit.

    Rows and columns are normalised in turn until every row sums to 1. The derivative is that of the limit, from one
    linear solve (implicit differentiation): with the gradient $G$ in $P$,

    $$ \frac{\partial}{\partial X} = \frac1\tau P \circ (G - a 1^\top - 1 b^\top), \qquad
       \begin{pmatrix} I & P \\ P^\top & I \end{pmatrix} \begin{pmatrix} a \\ b \end{pmatrix} =
       \begin{pmatrix} (P \circ G) 1 \\ (P \circ G)^\top 1 \end{pmatrix} , $$

    so that nothing of the iterations is kept. (Where they ended early, the identities are the sums that were reached.)

    Args:
        logits: $X$: ``[*batch, n, n]``, float32 or float64.
        temperature: $\tau$, positive; the lower, the nearer to a permutation.
        iterations: At most so many pairs of normalisations, of rows and then columns.
        tolerance: How far from 1 a row may sum at the end; nothing that a float32 cannot reach.
        unconverged: Whether to warn where rows are not within the tolerance after all iterations, which low
            temperatures need many of.

    Returns:
        ``[*batch, n, n]``: columns sum to 1, rows up to the tolerance, or to what is left after all iterations.

    References:
        R. Sinkhorn (1964), Ann. Math. Statist. 35; M. Cuturi (2013), "Sinkhorn distances", NeurIPS, arXiv 1306.0895;
        M. Eisenberger et al. (2022), "A unified framework for implicit Sinkhorn differentiation", CVPR, arXiv
        2205.06688.

    Examples:
        >>> matrix = sinkhorn(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), temperature=0.1)
        >>> matrix.round().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if not logits.numel():
        return logits
    result: Tensor = _Normalised.apply(logits / temperature, iterations, tolerance)  # type: ignore[no-untyped-call]  # PyTorch has no types there
    error = (result.detach().sum(-1) - 1).abs().max().item() if unconverged == "warn" else 0.0
    if not error <= tolerance:
        message = (
            f"rows of the normalised matrices sum to 1 up to {error:.1e} only, after {iterations} iterations at "
            f"temperature {temperature:g}; expected {tolerance:.1e}. Raise `iterations` or `temperature`"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return result


@final
class _Normalised(torch.autograd.Function):
    """Logarithms to doubly stochastic matrices, and gradients back."""

    @staticmethod
    @override
    def forward(ctx: Any, logs: Tensor, iterations: int, tolerance: float) -> Tensor:
        matrix = _normalised(logs, iterations, tolerance)
        ctx.save_for_backward(matrix)
        return matrix

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (matrix,) = ctx.saved_tensors
        return _pulled_back(matrix.double(), gradients[0].double()).to(matrix.dtype), None, None


def _normalised(logs: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Return the normalised exponentials.

    Rounds in the logarithm, which nothing can upset, alternate with products of a matrix and a vector, which are many
    times as fast, while their scalings stay small.
    """
    logs = logs.clone()
    while True:
        logs -= torch.logsumexp(logs, dim=-1, keepdim=True)
        logs -= torch.logsumexp(logs, dim=-2, keepdim=True)
        matrix = logs.exp()
        iterations -= 1
        if iterations < 1 or _is_within(matrix.sum(-1), tolerance):
            return matrix
        rows, columns, iterations, ended = _scaled(matrix, iterations, tolerance)
        if ended:
            return matrix * rows * columns.mT
        logs += rows.log() + columns.log().mT


def _scaled(matrix: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor, int, bool]:
    """Return scalings of rows and columns, what is left of the iterations, and whether these ended."""
    rows = matrix.new_ones(*matrix.shape[:-1], 1)
    columns = torch.ones_like(rows)
    while iterations > 0:
        new_rows, new_columns = rows, columns
        # To look at the result takes as long as several steps.
        steps = min(iterations, _STEPS)
        for _ in range(steps):
            new_rows = (matrix @ new_columns).reciprocal()
            new_columns = (matrix.mT @ new_rows).reciprocal()
        if not max(new_rows.max().item(), new_columns.max().item()) < _LARGEST_SCALING:
            return rows, columns, iterations, False
        rows = new_rows
        columns = new_columns
        iterations -= steps
        if _is_within(rows * (matrix @ columns), tolerance):
            break
    return rows, columns, iterations, True


def _is_within(sums: Tensor, tolerance: float) -> bool:
    return bool((sums - 1).abs().max() <= tolerance)


def _pulled_back(matrix: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient in the logarithms, sums of rows and columns held as they are."""
    weighted = matrix * gradient
    row_sums = matrix.sum(-1, keepdim=True)
    column_sums = matrix.sum(-2).unsqueeze(-1)
    of_rows = weighted.sum(-1, keepdim=True)
    of_columns = weighted.sum(-2).unsqueeze(-1)
    # Without the columns' shifts; a constant for all rows against all columns is free, and set to zero.
    reduced = torch.diag_embed(row_sums.squeeze(-1) + _RIDGE) - (matrix / column_sums.mT) @ matrix.mT
    reduced += 1 / matrix.shape[-1]
    factor = torch.linalg.cholesky_ex(reduced)[0]  # what is not a number stays so
    rows = torch.cholesky_solve(of_rows - matrix @ (of_columns / column_sums), factor)
    columns = (of_columns - matrix.mT @ rows) / column_sums
    return weighted - matrix * (rows + columns.mT)
