"""The interface of assignment solvers."""

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
    r"""An assignment of rows to columns, with the proof of how good it is.

    With the potentials $v$ of the columns, every assignment's total is at most
    $\sum_i \max_j (A_{ij} - v_j) + \sum_j v_j$ (for fewer rows than columns, with the columns that are left out at the
    least potential); `gap` is this bound less the total of `index`.

    Attributes:
        index: ``[*batch, m]``: the column of every row; no column twice.
        potentials: ``[*batch, n]`` in float64: the dual variables of the columns; None if the solver gives none.
        gap: ``[*batch]`` in float64: the most by which the total can fall short of the optimum, 0 up to rounding for
            exact solvers; None without potentials.
    """

    index: Tensor
    potentials: Tensor | None = None
    gap: Tensor | None = None


class AssignmentSolver(Strategy):
    r"""Finds the assignment of rows to columns with the largest total similarity.

    $$ p^* = \operatorname*{argmax}_{p} \sum_i A_{i, p(i)}, \qquad p \text{ one-to-one} $$

    Laws:
        - *Optimal*: the total is that of the best assignment up to the gap, and the gap is rounding for exact solvers;
          also with ties, equal or constant rows, dead rows and columns, one row.
        - *Certified*: where potentials are given, they bound the optimum as `Assignment` says.
        - *Beginnings do not matter*: begun from any earlier assignment, the total is the same.
        - *Batches*: a batch is solved as its matrices are, one by one.
        - *Rectangular*: fewer rows than columns leave the worst columns out.
    """

    family: ClassVar[str] = "assignment"

    @final
    def solve(self, similarity: Tensor, *, start: Assignment | None = None) -> Assignment:
        """Return the best assignment.

        Args:
            similarity: ``[*batch, m, n]`` with ``m <= n``, one problem for each leading index. Minus infinity forbids a
                pair.
            start: An earlier result for similar matrices of the same shape, to begin from.

        Returns:
            The assignment, on the device of ``similarity``.

        Raises:
            InvalidInputError: If there are more rows than columns, entries are NaN or plus infinity, every assignment
                has a forbidden pair, or the start is of another shape.
        """
        shape = tuple(similarity.shape)
        if len(shape) < _MATRIX or shape[-2] > shape[-1]:
            message = (
                f"expected similarity matrices [*batch, m, n] with m <= n, got shape {shape}; "
                "transpose matrices with more rows than columns"
            )
            raise InvalidInputError(message)
        if start is not None and not _is_start(start, shape):
            message = f"the start is no assignment for similarities of shape {shape}, or has a column twice"
            raise InvalidInputError(message)
        similarity = similarity.detach()
        if similarity.dtype not in {torch.float32, torch.float64}:
            similarity = similarity.to(torch.float32 if similarity.is_floating_point() else torch.float64)
        if 0 in shape:
            return _nothing(similarity)
        extremes = similarity.aminmax()
        least = extremes.min.item()
        largest = extremes.max.item()
        if not largest < torch.inf:
            message = f"a similarity matrix of shape {shape} has NaN or plus infinity; expected finite numbers"
            raise InvalidInputError(message)
        return self._solve(similarity, start) if least > -torch.inf else without_forbidden(similarity)

    @abstractmethod
    def _solve(self, similarity: Tensor, start: Assignment | None) -> Assignment:
        """Solve finite matrices ``[*batch, m, n]``, ``1 <= m <= n``, in single or double precision."""


def without_forbidden(similarity: Tensor) -> Assignment:
    """Return the best assignment that takes no forbidden pair.

    Args:
        similarity: ``[*batch, m, n]``; minus infinity forbids a pair.

    Returns:
        Indices alone.

    Raises:
        InvalidInputError: If there is none.
    """
    from scipy.optimize import linear_sum_assignment  # ruff: ignore[import-outside-top-level] - half a second

    shape = similarity.shape
    try:
        columns = [
            torch.from_numpy(linear_sum_assignment(matrix, maximize=True)[1])
            for matrix in similarity.to("cpu", torch.float64).reshape(-1, *shape[-2:]).numpy()
        ]
    except ValueError as error:
        message = f"every assignment of a similarity matrix of shape {tuple(shape)} takes a forbidden pair"
        raise InvalidInputError(message) from error
    return Assignment(torch.stack(columns).reshape(shape[:-1]).to(similarity.device))


def padded_to_square(similarity: Tensor) -> Tensor:
    """Return matrices made square with rows of zeros, which take the columns that are left out.

    Args:
        similarity: ``[*batch, m, n]`` with ``m <= n``.

    Returns:
        ``[*batch, n, n]``.
    """
    *batch, rows, columns = similarity.shape
    return torch.cat([similarity, similarity.new_zeros(*batch, columns - rows, columns)], dim=-2)


def _is_start(start: Assignment, shape: tuple[int, ...]) -> bool:
    """Return whether an earlier result fits matrices of a shape; rows at -1 are free."""
    columns = (*shape[:-2], shape[-1])
    if start.index.shape != shape[:-1] or (start.potentials is not None and start.potentials.shape != columns):
        return False
    if start.index.numel() and not -1 <= int(start.index.min()) <= int(start.index.max()) < shape[-1]:
        return False
    free = (start.index < 0).long()
    taken = torch.zeros(columns, dtype=torch.int64, device=start.index.device)
    return bool((taken.scatter_add(-1, start.index.clamp_min(0), 1 - free) <= 1).all())


def _nothing(similarity: Tensor) -> Assignment:
    *batch, rows, columns = similarity.shape
    return Assignment(
        similarity.new_zeros(*batch, rows, dtype=torch.int64),
        similarity.new_zeros(*batch, columns, dtype=torch.float64),
        similarity.new_zeros(batch, dtype=torch.float64),
    )
