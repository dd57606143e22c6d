"""CPU time of the steps of a descent over linear maps, beside that of an assignment, by the number of units.

    python tests/benchmarks/maps.py [UNITS ...]

Similarities are those of two networks whose units differ by a random orthogonal map, or permutation, and noise. All
steps run on one core. *product* is the matrix product of two matrices of n x 4n, *svd* is `torch.linalg.svd`, and
*unchanged* is the decision that aligned networks need no further step. Ratios are to *svd*, in the same run.
"""

from __future__ import annotations

import sys
from functools import partial
from time import process_time
from typing import TYPE_CHECKING

import torch

from rebasin_core.assignment import default_solver
from rebasin_core.bilinear.maps.optimal import best_map, can_improve
from rebasin_core.symmetry import Kind

if TYPE_CHECKING:
    from collections.abc import Callable


def seconds(function: Callable[[], object]) -> float:
    """Return the CPU seconds of a call, the best of three for calls below one second."""
    found: list[float] = []
    for _ in range(3):
        start = process_time()
        function()
        found.append(process_time() - start)
        if found[0] > 1:
            break
    return min(found)


def main(sizes: list[int]) -> None:
    """Print one line per number of units."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        first = torch.randn(size, 4 * size, generator=generator, dtype=torch.float64)
        noise = 0.5 * torch.randn(size, 4 * size, generator=generator, dtype=torch.float64)
        order = torch.randperm(size, generator=generator)
        rotation = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        permuted, rotated = first @ (first[order] + noise).T, first @ (rotation @ first + noise).T
        times = {
            "product": seconds(partial(torch.matmul, first, noise.T)),
            "assignment": seconds(partial(default_solver().solve, permuted)),
            "svd": seconds(partial(torch.linalg.svd, rotated)),
            "procrustes": seconds(partial(best_map, Kind.ORTHOGONAL, rotated)),
            "fixing ones": seconds(partial(best_map, Kind.ORTHOGONAL_FIXING_ONES, rotated)),
        }
        aligned = rotated @ best_map(Kind.ORTHOGONAL, rotated).mT
        tolerance = 1e-9 * aligned.diagonal().sum().item()
        assert not can_improve(Kind.ORTHOGONAL, aligned, tolerance)
        decide = partial(can_improve, Kind.ORTHOGONAL, aligned, tolerance)
        times["unchanged"] = seconds(decide)
        ratios = {name: times[name] / times["svd"] for name in ("procrustes", "fixing ones", "unchanged")}
        print(f"{size:5}", *(f"{name} {value:.4f} s" for name, value in times.items()), flush=True)
        print(f"{size:5}", *(f"{name} / svd {value:.2f}" for name, value in ratios.items()), flush=True)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [64, 256, 512, 1024])
