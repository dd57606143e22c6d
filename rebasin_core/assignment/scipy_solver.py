"""Assignment by SciPy, the reference implementation."""

from __future__ import annotations

from itertools import starmap
from typing import TYPE_CHECKING, Literal, final

import torch
from typing_extensions import override

from rebasin_core.assignment.base import Assignment, AssignmentSolver
from rebasin_core.assignment.duals import bound_gap, potentials_of

if TYPE_CHECKING:
    from torch import Tensor


@final
class ScipyAssignment(AssignmentSolver):
    """Exact solver of SciPy, in float64 on the CPU, one matrix at a time.

    Complexity:
        $O(n^3)$ per matrix. With a warm start, SciPy solves the matrix reduced by the potentials, which is faster.

    References:
        D. F. Crouse (2016), "On implementing 2D rectangular assignment algorithms", IEEE TAES 52(4): the shortest
        augmenting path method behind ``scipy.optimize.linear_sum_assignment``.

    Examples:
        >>> found = ScipyAssignment(certify=True).solve(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
        >>> found.index.tolist(), found.potentials.tolist(), found.gap.item()
        ([0, 1], [0.0, 1.0], 0.0)
    """

    name: Literal["scipy"] = "scipy"

    certify: bool = False
    """Whether to compute potentials and the gap, which doubles the work."""

    @override
    def _solve(self, similarity: Tensor, start: Assignment | None) -> Assignment:
        from scipy.optimize import linear_sum_assignment  # ruff: ignore[import-outside-top-level] - half a second

        shape = similarity.shape
        exact = similarity.to("cpu", torch.float64).reshape(-1, *shape[-2:])
        reduced = exact
        if start is not None and start.potentials is not None and shape[-2] == shape[-1]:
            difference = exact - start.potentials.to("cpu").reshape(-1, 1, shape[-1])
            reduced = difference.sub_(difference.amax(-1, keepdim=True))
        columns = [torch.from_numpy(linear_sum_assignment(m, maximize=True)[1]) for m in reduced.numpy()]
        index = torch.stack(columns).reshape(shape[:-1])
        if not self.certify:
            return Assignment(index.to(similarity.device))
        found = torch.stack(list(starmap(potentials_of, zip(exact, columns, strict=True))))
        potentials = found.reshape(*shape[:-2], shape[-1])
        gap = bound_gap(exact.reshape(shape), index, potentials)
        return Assignment(*(tensor.to(similarity.device) for tensor in (index, potentials, gap)))
