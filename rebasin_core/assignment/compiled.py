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

# Entries of a batch from which it is solved on several threads.
_WORTH_THREADS = 2**18


@final
class CompiledAssignment(AssignmentSolver):
    """Solves exactly with a kernel in C, built on first use with the machine's compiler and kept in the user's cache.

    An auction with falling increments finds prices of the columns; once few rows are free, shortest augmenting paths
    from these prices end it, in double precision. Begun from an earlier result, rows that are still content keep their
    columns, so that a matrix that changed little takes little more than one pass over it. Results come with potentials
    and the gap that they prove.

    Raises:
        ConfigError: If the kernel cannot be built; says why. The solver `scipy` needs no compiler.

    Complexity:
        $O(n^3)$ a matrix at worst, in practice some passes over it. On the CPU, the matrices of a batch on as many
        threads as torch has; matrices from elsewhere are copied.

    References:
        D. Bertsekas (1988), "The auction algorithm", Annals of Operations Research 14; R. Jonker, A. Volgenant (1987),
        "A shortest augmenting path algorithm for dense and sparse linear assignment problems", Computing 38.

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
        gain = (similarity if rows == size else padded_to_square(similarity)).cpu().contiguous()
        batch = gain.shape[:-2]
        warm = start is not None and start.potentials is not None
        index = torch.full((*batch, size), -1, dtype=torch.int32)
        potentials = torch.zeros(*batch, size, dtype=torch.float64)
        if start is not None and start.potentials is not None:
            index[..., :rows] = start.index
            potentials.copy_(start.potentials)
        gap = torch.zeros(batch, dtype=torch.float64)
        parts = (gain.view(-1, size, size), potentials.view(-1, size), index.view(-1, size), gap.view(-1))
        if not _all_solved(*parts, warm=warm):
            message = f"no memory for an assignment of {size} rows"
            raise MemoryError(message)
        device = similarity.device
        return Assignment(index[..., :rows].to(device, torch.int64), potentials.to(device), gap.to(device))


def _all_solved(gain: Tensor, potentials: Tensor, index: Tensor, gap: Tensor, *, warm: bool) -> bool:
    """Solve a batch ``[B, n, n]`` in place, on as many threads as torch has; return whether the memory sufficed."""
    kernel = load_kernel().functions["float" if gain.dtype == torch.float32 else "double"]

    def solved(gain: Tensor, potentials: Tensor, index: Tensor, gap: Tensor) -> bool:
        pointers = (gain.data_ptr(), potentials.data_ptr(), int(warm), index.data_ptr(), gap.data_ptr())
        return bool(kernel(*gain.shape[:2], *pointers) == 0)

    threads = min(torch.get_num_threads(), len(gain)) if gain.numel() > _WORTH_THREADS else 1
    if threads == 1:
        return solved(gain, potentials, index, gap)
    with ThreadPoolExecutor(threads) as pool:  # the kernel does not hold Python's lock
        return all(pool.map(solved, *(part.tensor_split(threads) for part in (gain, potentials, index, gap))))
