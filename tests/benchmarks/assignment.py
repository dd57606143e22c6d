"""Compare the run times of assignment solvers on matrices of several types.

    python tests/benchmarks/assignment.py [SIZE ...]      # the column lapx requires `pip install lapx`

On one thread; times are CPU times, the minimum of three runs. *Warm* is the compiled kernel started from its own result
for the matrix before 1 % of noise was added; *speed-up* is SciPy / compiled. All totals are compared with SciPy's.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from scipy.optimize import linear_sum_assignment
from tabulate import tabulate

import rebasin_core as rc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

lap = importlib.import_module("lap") if find_spec("lap") else None


def matrices(n: int) -> Iterator[tuple[str, Tensor]]:
    """Yield matrices in float32, by name."""
    g = torch.Generator().manual_seed(n)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    a, b = normal(n, 4 * n), normal(n, 4 * n)
    order = torch.randperm(n, generator=g)
    limit = math.sqrt(4 * n / (2 * math.log(n)))  # noise above which the planted assignment is not optimal
    dead = normal(n, n)
    dead[: n // 5], dead[:, : n // 5] = 0, 0
    yield "independent entries", normal(n, n)
    yield "unrelated weights", a @ b.T
    yield "permuted copy, noise 1", a @ (a[order] + normal(n, 4 * n)).T
    yield "permuted copy, noise at limit", a @ (a[order] + limit * normal(n, 4 * n)).T
    yield "rank one", normal(n, 1) * normal(1, n)
    yield "scales over e^2", normal(n, n) * (2 * normal(n, 1)).exp() * (2 * normal(1, n)).exp()
    yield "a fifth dead", dead
    yield "integers 0 to 9", torch.randint(0, 10, (n, n), generator=g).float()
    yield "constant", torch.ones(n, n)


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Return the minimum CPU time of three runs, and the result."""
    best, result = math.inf, torch.zeros(0)
    for _ in range(3):
        start = time.process_time()
        result = run()
        best = min(best, time.process_time() - start)
    return best, result


def total(matrix: Tensor, index: Tensor) -> float:
    """Return the total of an assignment, in float64."""
    return matrix.double().gather(1, index.long().unsqueeze(1)).sum().item()


def measured(matrix: Tensor) -> list[float]:
    """Return the time in seconds of every solver on one matrix, SciPy first."""
    exact, costs = matrix.double().numpy(), (-matrix).numpy()
    compiled, auction = rc.assignment.CompiledAssignment(), rc.assignment.AuctionAssignment()
    before = compiled.solve(matrix)
    later = matrix + 0.01 * matrix.std() * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(1))
    runs: list[Callable[[], Tensor]] = [
        lambda: torch.from_numpy(linear_sum_assignment(exact, maximize=True)[1]),
        lambda: compiled.solve(matrix).index,
        lambda: auction.solve(matrix).index,
        lambda: compiled.solve(later, start=before).index,
    ]
    if lap is not None:
        runs.append(lambda: torch.as_tensor(lap.lapjvr(costs)[2]))  # cost, rows, columns
    seconds, found = zip(*map(timed, runs), strict=True)
    best = total(matrix, found[0])
    for index in (*found[1:3], *found[4:]):
        if abs(best - total(matrix, index)) > 1e-6 * max(1.0, abs(best)):
            message = f"a total is smaller than SciPy's by {best - total(matrix, index)}"
            raise ValueError(message)
    return list(seconds)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows: list[list[str | float]] = []
    ratios: list[float] = []
    for n in [int(size) for size in sys.argv[1:]] or [256, 512, 1024, 2048]:
        for name, matrix in matrices(n):
            seconds = measured(matrix)
            ratios.append(seconds[0] / seconds[1])
            rows.append([name, n, *(1000 * elapsed for elapsed in seconds), ratios[-1]])
    solvers = ["scipy (ms)", "compiled (ms)", "auction (ms)", "warm (ms)", *(["lapx (ms)"] if lap is not None else [])]
    print(tabulate(rows, ["matrix", "n", *solvers, "speed-up"], tablefmt="github", floatfmt=".2f"))
    print(f"\nSpeed-up over SciPy (geometric mean): {math.exp(sum(map(math.log, ratios)) / len(ratios)):.1f}")


if __name__ == "__main__":
    main()
