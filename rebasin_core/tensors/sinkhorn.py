"""Sinkhorn's normalisation: from any matrix to a doubly stochastic one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def sinkhorn(logits: Tensor, *, temperature: float = 1.0, iterations: int = 20) -> Tensor:
    r"""Return the doubly stochastic matrix $\mathrm{diag}(u)\, e^{X / \tau}\, \mathrm{diag}(v)$, in the limit.

    Rows and columns are normalised in turn, in the logarithm; the result is differentiable.

    Args:
        logits: $X$: ``[*batch, n, n]``.
        temperature: $\tau$, positive; the lower, the nearer to a permutation.
        iterations: Pairs of normalisations, of rows and then columns.

    Returns:
        ``[*batch, n, n]``: columns sum to 1 exactly, rows up to what is left to converge.

    References:
        R. Sinkhorn (1964), Ann. Math. Statist. 35; M. Cuturi (2013), "Sinkhorn distances", NeurIPS, arXiv 1306.0895.

    Example:
        >>> matrix = sinkhorn(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), temperature=0.1)
        >>> matrix.round().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    logs = logits / temperature
    for _ in range(iterations):
        logs = logs - torch.logsumexp(logs, dim=-1, keepdim=True)  # ruff: ignore[non-augmented-assignment] - autograd needs the old one
        logs = logs - torch.logsumexp(logs, dim=-2, keepdim=True)  # ruff: ignore[non-augmented-assignment]
    return logs.exp()
