"""Sinkhorn normalization to doubly stochastic matrices, with implicit differentiation."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from torch.autograd.function import once_differentiable
from typing_extensions import override

from rebasin_core.errors import ConvergenceWarning

if TYPE_CHECKING:
    from torch import Tensor

# Larger scalings are absorbed into the logarithms, to avoid over- and underflow.
_MAX_SCALING = 1e6
# Number of steps between checks of convergence, since a check takes as long as several steps.
_STEPS = 5
# Regularizes the linear system, which is nearly singular for matrices near a permutation.
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

    Rows and columns are normalized alternately until every row sums to 1. The derivative is that of the limit, computed
    by implicit differentiation with one linear solve. For the gradient $G$ with respect to $P$,

    $$ \frac{\partial}{\partial X} = \frac1\tau P \circ (G - a 1^\top - 1 b^\top), \qquad
       \begin{pmatrix} I & P \\ P^\top & I \end{pmatrix} \begin{pmatrix} a \\ b \end{pmatrix} =
       \begin{pmatrix} (P \circ G) 1 \\ (P \circ G)^\top 1 \end{pmatrix} . $$

    The iterations are therefore not stored. If they did not converge, the diagonal blocks $I$ are replaced by the
    actual sums of rows and columns.

    Args:
        logits: $X$: ``[*batch, n, n]``, float32 or float64.
        temperature: $\tau$, positive; smaller values are nearer to permutations, and need more iterations.
        iterations: Maximum number of iterations; each normalizes the rows and then the columns.
        tolerance: Largest deviation of a row sum from 1 at convergence; not below the precision of float32.
        unconverged: ``"warn"``, or ``"allow"`` row sums beyond the tolerance after the last iteration.

    Returns:
        ``[*batch, n, n]``. Columns sum to 1; rows sum to 1 up to the tolerance if the iterations converged.

    References:
        R. Sinkhorn (1964), "A relationship between arbitrary positive matrices and doubly stochastic matrices", Ann.
        Math. Statist. 35; M. Cuturi (2013), "Sinkhorn distances: lightspeed computation of optimal transport", NeurIPS,
        arXiv 1306.0895; M. Eisenberger et al. (2022), "A unified framework for implicit Sinkhorn differentiation",
        CVPR, arXiv 2205.06688.

    Examples:
        >>> matrix = sinkhorn(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), temperature=0.1)
        >>> matrix.round().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if not logits.numel():
        return logits
    result: Tensor = _Normalization.apply(logits / temperature, iterations, tolerance)  # type: ignore[no-untyped-call]  # PyTorch has no types there
    error = (result.detach().sum(-1) - 1).abs().max().item() if unconverged == "warn" else 0.0
    if not error <= tolerance:
        message = (
            f"Sinkhorn normalization did not converge: after {iterations} iterations at temperature {temperature:g}, "
            f"row sums differ from 1 by {error:.1e}, expected {tolerance:.1e}. Increase `iterations` or `temperature`"
        )
        warnings.warn(message, ConvergenceWarning, stacklevel=2)
    return result


@final
class _Normalization(torch.autograd.Function):
    """Doubly stochastic matrix of given logarithms, with its implicit gradient."""

    @staticmethod
    @override
    def forward(ctx: Any, logs: Tensor, iterations: int, tolerance: float) -> Tensor:
        matrix = _normalized(logs, iterations, tolerance)
        ctx.save_for_backward(matrix)
        return matrix

    @staticmethod
    @once_differentiable
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (matrix,) = ctx.saved_tensors
        return _pulled_back(matrix.double(), gradients[0].double()).to(matrix.dtype), None, None


def _normalized(logs: Tensor, iterations: int, tolerance: float) -> Tensor:
    """Return the normalized exponentials.

    Iterations in the logarithmic domain, which are always stable, alternate with matrix-vector products, which are many
    times faster and are used while the scalings are small.
    """
    logs = logs.clone()
    while True:
        logs -= torch.logsumexp(logs, dim=-1, keepdim=True)
        logs -= torch.logsumexp(logs, dim=-2, keepdim=True)
        matrix = logs.exp()
        iterations -= 1
        if iterations < 1 or _is_within(matrix.sum(-1), tolerance):
            return matrix
        rows, columns, iterations, finished = _scaled(matrix, iterations, tolerance)
        if finished:
            return matrix * rows * columns.mT
        logs += rows.log() + columns.log().mT


def _scaled(matrix: Tensor, iterations: int, tolerance: float) -> tuple[Tensor, Tensor, int, bool]:
    """Return scalings of rows and columns, the number of remaining iterations, and whether to stop.

    False for the last value means that the scalings became too large.
    """
    rows = matrix.new_ones(*matrix.shape[:-1], 1)
    columns = torch.ones_like(rows)
    while iterations > 0:
        new_rows, new_columns = rows, columns
        steps = min(iterations, _STEPS)
        for _ in range(steps):
            new_rows = (matrix @ new_columns).reciprocal()
            new_columns = (matrix.mT @ new_rows).reciprocal()
        if not max(new_rows.max().item(), new_columns.max().item()) < _MAX_SCALING:
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
    """Return the gradient with respect to the logarithms, projected onto changes with fixed row and column sums."""
    weighted = matrix * gradient
    row_sums = matrix.sum(-1, keepdim=True)
    column_sums = matrix.sum(-2).unsqueeze(-1)
    of_rows = weighted.sum(-1, keepdim=True)
    of_columns = weighted.sum(-2).unsqueeze(-1)
    # The Schur complement eliminates the columns. It is singular for constant vectors, so 1/n is added to its entries.
    reduced = torch.diag_embed(row_sums.squeeze(-1) + _RIDGE) - (matrix / column_sums.mT) @ matrix.mT
    reduced += 1 / matrix.shape[-1]
    factor = torch.linalg.cholesky_ex(reduced)[0]  # does not raise for NaN, which propagates
    rows = torch.cholesky_solve(of_rows - matrix @ (of_columns / column_sums), factor)
    columns = (of_columns - matrix.mT @ rows) / column_sums
    return weighted - matrix * (rows + columns.mT)
