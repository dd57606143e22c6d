"""Assignment by the compiled kernel: an auction, then shortest augmenting paths."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, Self, final

import torch
from pydantic import model_validator
from typing_extensions import override

from rebasin_core.assignment.base import Assignment, AssignmentSolver, padded_to_square
from rebasin_core.assignment.kernel import KernelUnavailableError, load_kernel

if TYPE_CHECKING:
    from torch import Tensor

# Number of entries of a batch above which several threads are used.
_WORTH_THREADS = 2**18


@final
class CompiledAssignment(AssignmentSolver):
    """Exact solver in C, compiled on first use with the machine's compiler and kept in the user's cache folder.

    An auction with epsilon scaling finds prices of the columns. When few rows are unassigned, shortest augmenting paths
    from these prices assign the rest, in float64. With a warm start, rows keep their columns if these are still
    optimal at the prices; if the matrix changed little, the run time is little more than one pass over it. Results have
    potentials and the gap that these prove.

    Raises:
        ConfigError: If the kernel cannot be built; the message has the reason. The solver `scipy` needs no compiler.

    Complexity:
        $O(n^3)$ per matrix in the worst case, in practice a few passes over it. The matrices of a batch are solved in
        parallel on up to `torch.get_num_threads` threads. Runs on the CPU; matrices on other devices are copied.

    References:
        D. Bertsekas (1988), "The auction algorithm: a distributed relaxation method for the assignment problem", Annals
        of Operations Research 14; R. Jonker, A. Volgenant (1987), "A shortest augmenting path algorithm for dense and
        sparse linear assignment problems", Computing 38.

    Examples:
        >>> found = CompiledAssignment().solve(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))
        >>> found.index.tolist(), found.gap.item()
        ([0, 1], 0.0)
    """

    name: Literal["compiled"] = "compiled"

    @model_validator(mode="after")
    def _is_available(self) -> Self:
        try:
            load_kernel()
        except KernelUnavailableError as error:
            message = f"the assignment solver `compiled` is not available: {error}; use `scipy`"
            raise ValueError(message) from error
        return self

    @override
    def _solve(self, similarity: Tensor, start: Assignment | None) -> Assignment:
        rows, size = similarity.shape[-2:]
        value = (similarity if rows == size else padded_to_square(similarity)).cpu().contiguous()
        batch = value.shape[:-2]
        warm = start is not None and start.potentials is not None
        index = torch.full((*batch, size), -1, dtype=torch.int32)
        potentials = torch.zeros(*batch, size, dtype=torch.float64)
        if start is not None and start.potentials is not None:
            index[..., :rows] = start.index
            potentials.copy_(start.potentials)
        gap = torch.zeros(batch, dtype=torch.float64)
        parts = (value.view(-1, size, size), potentials.view(-1, size), index.view(-1, size), gap.view(-1))
        if not _solve_all(*parts, warm=warm):
            message = f"not enough memory for an assignment of {size} rows"
            raise MemoryError(message)
        device = similarity.device
        return Assignment(index[..., :rows].to(device, torch.int64), potentials.to(device), gap.to(device))


def _solve_all(value: Tensor, potentials: Tensor, index: Tensor, gap: Tensor, *, warm: bool) -> bool:
    """Solve a batch ``[B, n, n]`` in place, on as many threads as torch uses; return whether the memory sufficed."""
    kernel = load_kernel().functions["float" if value.dtype == torch.float32 else "double"]

    def solve(value: Tensor, potentials: Tensor, index: Tensor, gap: Tensor) -> bool:
        pointers = (value.data_ptr(), potentials.data_ptr(), int(warm), index.data_ptr(), gap.data_ptr())
        return bool(kernel(*value.shape[:2], *pointers) == 0)

    threads = min(torch.get_num_threads(), len(value)) if value.numel() > _WORTH_THREADS else 1
    if threads == 1:
        return solve(value, potentials, index, gap)
    with ThreadPoolExecutor(threads) as pool:  # ctypes releases the global interpreter lock
        return all(pool.map(solve, *(part.tensor_split(threads) for part in (value, potentials, index, gap))))
