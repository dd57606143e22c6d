"""What a step through Sinkhorn's normalisation costs: differentiated implicitly, and through every iteration.

    python tests/benchmarks/sinkhorn.py

Forward and backward, 20 iterations of both, side by side in one process and thread; and what is held for the backward
pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from tabulate import tabulate
from torch import Tensor

from rebasin_core.tensors.sinkhorn import sinkhorn

ITERATIONS = 20


def unrolled(logits: Tensor, iterations: int = ITERATIONS) -> Tensor:
    """Return the same matrix, for autograd to go back through every iteration."""
    for _ in range(iterations):
        logits = logits - torch.logsumexp(logits, -1, keepdim=True)  # ruff: ignore[non-augmented-assignment] - autograd needs the old one
        logits = logits - torch.logsumexp(logits, -2, keepdim=True)  # ruff: ignore[non-augmented-assignment]
    return logits.exp()


def implicit(logits: Tensor) -> Tensor:
    """Return it from the library."""
    return sinkhorn(logits, iterations=ITERATIONS, tolerance=0.0, unconverged="allow")


def cost(function: Callable[[Tensor], Tensor], logits: Tensor, weight: Tensor) -> tuple[float, float, Tensor]:
    """Return the least seconds of a step, the bytes that it holds, and the gradient."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = function(logits)
    seconds: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        (gradient,) = torch.autograd.grad((function(logits) * weight).sum(), logits)
        seconds.append(time.perf_counter() - start)
    del kept
    return min(seconds), sum(held.values()), gradient


def main() -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for size, together in ((8, 12), (64, 12), (256, 1), (512, 1), (1024, 1), (2048, 1)):
        generator = torch.Generator().manual_seed(0)
        shape = (together, size, size)
        logits = (torch.eye(size) + torch.randn(shape, generator=generator)).requires_grad_()
        weight = torch.randn(shape, generator=generator)
        slow, large, expected = cost(unrolled, logits, weight)
        fast, small, found = cost(implicit, logits, weight)
        apart = ((found - expected).norm() / expected.norm()).item()
        name = f"{size}" if together == 1 else f"{together} of {size}"
        rows.append([name, 1e3 * slow, 1e3 * fast, slow / fast, large / 2**20, small / 2**20, apart])
    headers = ["units", "unrolled, ms", "implicit, ms", "ratio", "unrolled, MiB", "implicit, MiB", "gradients apart"]
    print(tabulate(rows, headers, floatfmt=("", ".1f", ".1f", ".1f", ".1f", ".1f", ".0e"), tablefmt="github"))


if __name__ == "__main__":
    torch.set_num_threads(1)  # two threads on a busy machine wait for each other
    main()
