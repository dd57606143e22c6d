"""Growth of CPU time with the size of a problem, with fitted exponents.

    python tests/benchmarks/growth.py [--quantities NAME ...]

For every quantity the CPU seconds at increasing sizes, the minimum of three runs on one thread, and the exponent: the
slope of the line that is fitted to the logarithms of the last three sizes.
"""

from __future__ import annotations

import argparse
import math
from time import process_time
from typing import TYPE_CHECKING

import torch
from tabulate import tabulate
from torch import nn

import rebasin_core as rc
from rebasin_core.posteriors import DiagonalGaussianPosterior

if TYPE_CHECKING:
    from collections.abc import Callable


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator with a seed."""
    return torch.Generator().manual_seed(seed)


def networks(count: int, hidden: list[int]) -> tuple[list[nn.Module], rc.PermutationSpec]:
    """Return random MLPs and their specification."""
    architecture = rc.architectures.MLPArchitecture(hidden=hidden)
    every = [architecture.build((32,), 10, generator=generator(seed)) for seed in range(count)]
    return every, architecture.spec(every[0])


def matching(hidden: list[int]) -> Callable[[], object]:
    """Return weight matching of two MLPs."""
    (first, second), spec = networks(2, hidden)
    return lambda: rc.match(first, second, spec, "weight")


def many(count: int) -> Callable[[], object]:
    """Return one round of matching many networks."""
    every, spec = networks(count, [64, 64])
    return lambda: rc.match_many(every, spec, max_rounds=1)


def tracing(depth: int) -> Callable[[], object]:
    """Return the derivation of a specification."""
    model = networks(1, [16] * depth)[0][0]
    return lambda: rc.trace_spec(model, torch.randn(2, 32, generator=generator()))


def applying(depth: int) -> Callable[[], object]:
    """Return the application of a permutation."""
    (model,), spec = networks(1, [64] * depth)
    tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
    permutation = spec.random_permutation(generator=generator())
    return lambda: permutation.apply(tensors)


def barrier(points: int, samples: int) -> Callable[[], object]:
    """Return a marginalized barrier."""
    models, _ = networks(2, [128, 128])
    means = [{n: p.detach() for n, p in model.named_parameters()} for model in models]
    first, second = [
        DiagonalGaussianPosterior(mean, {n: torch.full_like(t, 0.02) for n, t in mean.items()}) for mean in means
    ]
    inputs = torch.randn(1000, 32, generator=generator())
    task = rc.Task(models[0], [(inputs, torch.randint(10, (1000,), generator=generator()))])
    return lambda: rc.barrier(first, second, task, num_points=points, num_samples=samples)


def assignment(size: int) -> Callable[[], object]:
    """Return an assignment of independent random entries."""
    matrix = torch.randn(size, size, generator=generator())
    solver = rc.assignment.CompiledAssignment()
    return lambda: solver.solve(matrix)


QUANTITIES: dict[str, tuple[str, list[int], Callable[[int], Callable[[], object]]]] = {
    "matching, width": ("MLPs with three hidden layers", [128, 256, 512, 1024], lambda n: matching([n] * 3)),
    "matching, depth": ("MLPs of width 64", [8, 16, 32, 64], lambda n: matching([64] * n)),
    "networks": ("one round of `match_many`, hidden layers of 64 and 64", [20, 40, 80, 160, 320], many),
    "tracing, depth": ("`trace_spec` of MLPs of width 16", [8, 16, 32, 64], tracing),
    "applying, depth": ("`Permutation.apply` to MLPs of width 64", [8, 16, 32, 64], applying),
    "assignment, units": ("`CompiledAssignment` of random entries", [256, 512, 1024, 2048], assignment),
    "barrier, samples": ("`marginalized` with 5 points", [16, 32, 64, 128], lambda n: barrier(5, n)),
    "barrier, points": ("`marginalized` with 16 samples", [5, 9, 17, 33], lambda n: barrier(n, 16)),
}


def seconds(run: Callable[[], object]) -> float:
    """Return the minimum CPU time of three runs."""
    times = []
    for _ in range(3):
        start = process_time()
        run()
        times.append(process_time() - start)
    return min(times)


def exponent(sizes: list[int], times: list[float]) -> float:
    """Return the slope of the least-squares line through the logarithms of the last three sizes and times."""
    x, y = ([math.log(value) for value in values[-3:]] for values in (sizes, times))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quantities", nargs="+", choices=list(QUANTITIES), default=list(QUANTITIES), metavar="NAME")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in options.quantities:
        what, sizes, make = QUANTITIES[name]
        times = [seconds(make(size)) for size in sizes]
        shown = ", ".join(f"{size}: {1000 * t:.{1 if t < 1 else 0}f}" for size, t in zip(sizes, times, strict=True))
        rows.append([name, what, shown, exponent(sizes, times)])
    print(tabulate(rows, ["quantity", "problem", "size: CPU time (ms)", "exponent"], "github", floatfmt=".2f"))


if __name__ == "__main__":
    main()
