"""Interface of assignment solvers."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from torch import Tensor

_MATRIX = 2


@final
@dataclass(frozen=True, slots=True)
class Assignment:
    r"""An assignment of rows to columns, with an optional certificate of optimality.

    By linear programming duality, for any potentials $v$ of the columns the total of every assignment is at most
    $\sum_i \max_j (A_{ij} - v_j) + \sum_j v_j - (n - m) \min_j v_j$. The optimality `gap` is this bound minus the total
    of `index`.

    Attributes:
        index: ``[*batch, m]``: the column of every row; all columns of a matrix are different.
        potentials: ``[*batch, n]`` in float64: the dual variables of the columns; None if the solver computes none.
        gap: ``[*batch]`` in float64: upper bound of the difference between the optimal total and that of ``index``; 0
            up to rounding for exact solvers, None without potentials.
    """

    index: Tensor
    potentials: Tensor | None = None
    gap: Tensor | None = None


class AssignmentSolver(Strategy):
    r"""Algorithm that finds the assignment of rows to columns with the largest total similarity.

    $$ p^* = \operatorname*{argmax}_{p} \sum_i A_{i, p(i)}, \qquad p \text{ one-to-one} $$

    Laws:
        - *Optimality*: the total is optimal up to the gap, which is rounding for exact solvers; also with ties, equal
          or constant rows, rows and columns of zeros, and a single row.
        - *Certificate*: if potentials are returned, they bound the optimum as in `Assignment`.
        - *Independence of the start*: the total does not depend on ``start``.
        - *Batches*: the result of a batch is that of its matrices solved separately.
        - *Rectangular matrices*: with fewer rows than columns, all rows are assigned and columns remain unassigned.
    """

    family: ClassVar[str] = "assignment"

    @final
    def solve(self, similarity: Tensor, *, start: Assignment | None = None) -> Assignment:
        """Return the assignment with the largest total similarity.

        Args:
            similarity: ``[*batch, m, n]`` with ``m <= n``, one problem for each leading index. Minus infinity forbids a
                pair.
            start: Result for similar matrices of the same shape, for a warm start; None for a cold start.

        Returns:
            The assignment, on the device of ``similarity``.

        Raises:
            InvalidInputError: If there are more rows than columns, entries are NaN or plus infinity, every assignment
                has a forbidden pair, or the start does not fit the shape.
        """
        shape = tuple(similarity.shape)
        if len(shape) < _MATRIX or shape[-2] > shape[-1]:
            message = (
                f"expected similarity matrices [*batch, m, n] with m <= n, got shape {shape}; "
                "transpose matrices with more rows than columns"
            )
            raise InvalidInputError(message)
        if start is not None and not _is_start(start, shape):
            message = f"the start is no assignment for similarities of shape {shape}, or has a repeated column"
            raise InvalidInputError(message)
        similarity = similarity.detach()
        if similarity.dtype not in {torch.float32, torch.float64}:
            similarity = similarity.to(torch.float32 if similarity.is_floating_point() else torch.float64)
        if 0 in shape:
            return _empty(similarity)
        extremes = similarity.aminmax()
        least = extremes.min.item()
        largest = extremes.max.item()
        if not largest < torch.inf:
            message = f"a similarity matrix of shape {shape} has NaN or plus infinity; expected finite numbers"
            raise InvalidInputError(message)
        return self._solve(similarity, start) if least > -torch.inf else without_forbidden(similarity)

    @abstractmethod
    def _solve(self, similarity: Tensor, start: Assignment | None) -> Assignment:
        """Solve validated problems.

        Args:
            similarity: Finite matrices ``[*batch, m, n]`` with ``1 <= m <= n``, in float32 or float64.
            start: Result for similar matrices of the same shape, for a warm start; None for a cold start. A solver
                may ignore it.

        Returns:
            The assignment, on the device of ``similarity``; with potentials if the solver computes them.
        """


def without_forbidden(similarity: Tensor) -> Assignment:
    """Return the best assignment without forbidden pairs, solved by SciPy.

    Args:
        similarity: ``[*batch, m, n]``; minus infinity forbids a pair.

    Returns:
        The assignment, without potentials and gap.

    Raises:
        InvalidInputError: If every assignment has a forbidden pair.
    """
    from scipy.optimize import linear_sum_assignment  # ruff: ignore[import-outside-top-level] - half a second

    shape = similarity.shape
    try:
        columns = [
            torch.from_numpy(linear_sum_assignment(matrix, maximize=True)[1])
            for matrix in similarity.to("cpu", torch.float64).reshape(-1, *shape[-2:]).numpy()
        ]
    except ValueError as error:
        message = f"every assignment of a similarity matrix of shape {tuple(shape)} has a forbidden pair"
        raise InvalidInputError(message) from error
    return Assignment(torch.stack(columns).reshape(shape[:-1]).to(similarity.device))


def padded_to_square(similarity: Tensor) -> Tensor:
    """Return square matrices with additional rows of zeros, to which the remaining columns are assigned.

    Args:
        similarity: ``[*batch, m, n]`` with ``m <= n``.

    Returns:
        ``[*batch, n, n]``.
    """
    *batch, rows, columns = similarity.shape
    return torch.cat([similarity, similarity.new_zeros(*batch, columns - rows, columns)], dim=-2)


def _is_start(start: Assignment, shape: tuple[int, ...]) -> bool:
    """Return whether an earlier result fits matrices of a shape; -1 marks an unassigned row."""
    columns = (*shape[:-2], shape[-1])
    if start.index.shape != shape[:-1] or (start.potentials is not None and start.potentials.shape != columns):
        return False
    if start.index.numel() and not -1 <= int(start.index.min()) <= int(start.index.max()) < shape[-1]:
        return False
    unassigned = (start.index < 0).long()
    counts = torch.zeros(columns, dtype=torch.int64, device=start.index.device)
    return bool((counts.scatter_add(-1, start.index.clamp_min(0), 1 - unassigned) <= 1).all())


def _empty(similarity: Tensor) -> Assignment:
    *batch, rows, columns = similarity.shape
    return Assignment(
        similarity.new_zeros(*batch, rows, dtype=torch.int64),
        similarity.new_zeros(*batch, columns, dtype=torch.float64),
        similarity.new_zeros(batch, dtype=torch.float64),
    )
