"""Linear assignment: the one combinatorial step that every permutation matcher rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rebasin_core.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

_SQUARE = 2


def solve_assignment(similarity: Tensor) -> Tensor:
    r"""Return the permutation that maximises the total similarity, exactly.

    $$ p^* = \mathrm{argmax}_{p \in S_n} \sum_i A_{i, p(i)} $$

    Args:
        similarity: ``[*batch, n, n]``, one problem for each leading index; finite.

    Returns:
        ``[*batch, n]`` indices on the device of ``similarity``.

    Raises:
        InvalidInputError: If the matrix is not square or not finite.

    Complexity:
        $O(n^3)$ a problem, on the CPU in float64.

    References:
        D. F. Crouse (2016), "On implementing 2D rectangular assignment algorithms", IEEE TAES 52(4):
        the shortest augmenting path method behind ``scipy.optimize.linear_sum_assignment``.
    """
    from scipy.optimize import linear_sum_assignment  # ruff: ignore[import-outside-top-level] - half a second

    shape = tuple(similarity.shape)
    if len(shape) < _SQUARE or shape[-1] != shape[-2]:
        message = f"expected square similarity matrices [*batch, n, n], got shape {shape}"
        raise InvalidInputError(message)
    matrices = similarity.detach().to("cpu", torch.float64).reshape(-1, *shape[-2:]).numpy()
    if not np.isfinite(matrices).all():
        message = f"a similarity matrix of shape {shape} has NaN or infinite entries; expected finite numbers"
        raise InvalidInputError(message)
    columns = [linear_sum_assignment(matrix, maximize=True)[1] for matrix in matrices]
    stacked = np.stack(columns) if columns else np.empty((0, shape[-1]), dtype=np.int64)
    return torch.from_numpy(stacked.astype(np.int64)).reshape(shape[:-1]).to(similarity.device)
