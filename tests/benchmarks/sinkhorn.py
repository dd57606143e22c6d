"""Compare the cost of Sinkhorn normalization with implicit differentiation and with unrolled iterations.

    python tests/benchmarks/sinkhorn.py

Forward and backward pass with 20 iterations, in one process and thread; and the memory held for the backward pass.
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
    """Return the normalized matrix, with automatic differentiation through all iterations."""
    for _ in range(iterations):
        logits = logits - torch.logsumexp(logits, -1, keepdim=True)  # ruff: ignore[non-augmented-assignment] - autograd needs the old tensor
        logits = logits - torch.logsumexp(logits, -2, keepdim=True)  # ruff: ignore[non-augmented-assignment]
    return logits.exp()


def implicit(logits: Tensor) -> Tensor:
    """Return the normalized matrix, with implicit differentiation."""
    return sinkhorn(logits, iterations=ITERATIONS, tolerance=0.0, unconverged="allow")


def cost(function: Callable[[Tensor], Tensor], logits: Tensor, weight: Tensor) -> tuple[float, float, Tensor]:
    """Return the minimum time of a step (s), the memory held for the backward pass (bytes), and the gradient."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kept = function(logits)
    seconds: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        (gradient,) = torch.autograd.grad((function(logits) * weight).sum(), logits)
        seconds.append(time.perf_counter() - start)
    del kept
    return min(seconds), sum(saved.values()), gradient


def main() -> None:
    """Print the table."""
    rows: list[list[object]] = []
    for size, batch in ((8, 12), (64, 12), (256, 1), (512, 1), (1024, 1), (2048, 1)):
        generator = torch.Generator().manual_seed(0)
        shape = (batch, size, size)
        logits = (torch.eye(size) + torch.randn(shape, generator=generator)).requires_grad_()
        weight = torch.randn(shape, generator=generator)
        slow, large, expected = cost(unrolled, logits, weight)
        fast, small, found = cost(implicit, logits, weight)
        difference = ((found - expected).norm() / expected.norm()).item()
        name = f"{size}" if batch == 1 else f"{batch} x {size}"
        rows.append([name, 1e3 * slow, 1e3 * fast, slow / fast, large / 2**20, small / 2**20, difference])
    headers = [
        "units",
        "unrolled (ms)",
        "implicit (ms)",
        "speed-up",
        "unrolled (MiB)",
        "implicit (MiB)",
        "rel. gradient difference",
    ]
    print(tabulate(rows, headers, floatfmt=("", ".1f", ".1f", ".1f", ".1f", ".1f", ".0e"), tablefmt="github"))


if __name__ == "__main__":
    torch.set_num_threads(1)  # more threads give less reproducible times on a busy machine
    main()
