"""Seconds of one round of `match_many`, by the number of networks.

    python tests/benchmarks/many.py [--networks 20 40 80 160] [--hidden 64 64] [--posterior point]

Prints one line per number of networks: seconds of a round with running sums and with the barycenter computed from all
other networks in every step, their ratio, the exponent of growth since the previous line, and whether both runs found
the same mean squared distance.
"""

from __future__ import annotations

import argparse
import math
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior
from rebasin_core.posteriors.running import LeaveOneOut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.posteriors import Posterior


def networks(count: int, hidden: Sequence[int], posterior: str) -> tuple[list[Posterior], rc.PermutationSpec]:
    """Return random networks and their specification."""
    widths = [28, *hidden, 10]
    layers = [part for pair in pairwise(widths) for part in (nn.Linear(*pair), nn.ReLU())]
    model = nn.Sequential(*layers[:-1])
    spec = rc.trace_spec(model, torch.randn(2, 28))
    generator = torch.Generator().manual_seed(0)
    found: list[Posterior] = []
    for _ in range(count):
        mean = {n: torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
        stddev = {n: torch.rand(t.shape, generator=generator) for n, t in mean.items()}
        found.append(PointPosterior(mean) if posterior == "point" else DiagonalGaussianPosterior(mean, stddev))
    return found, spec


def seconds_and_distance(given: list[Posterior], spec: rc.PermutationSpec) -> tuple[float, float]:
    """Return the seconds of one round, and the mean squared distance after it."""
    start = perf_counter()
    result = rc.match_many(given, spec, max_rounds=1)
    return perf_counter() - start, result.trace[-1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--networks", type=int, nargs="+", default=[20, 40, 80, 160])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64, 64])
    parser.add_argument("--posterior", choices=("point", "diagonal_gaussian"), default="point")
    parser.add_argument("--no-quadratic", action="store_true", help="Skip the comparison.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    before: tuple[int, float] | None = None
    for count in options.networks:
        given, spec = networks(count, options.hidden, options.posterior)
        linear, distance = seconds_and_distance(given, spec)
        line = f"K = {count}: {linear:.2f} s"
        if not options.no_quadratic:
            with patch.object(LeaveOneOut, "_sums", list):
                quadratic, other = seconds_and_distance(given, spec)
            same = math.isclose(distance, other, rel_tol=1e-6)
            line += f"; {quadratic:.2f} s without running sums, ratio {quadratic / linear:.1f}, same distance: {same}"
        if before is not None:
            line += f"; exponent {math.log(linear / before[1]) / math.log(count / before[0]):.2f}"
        before = count, linear
        print(line, flush=True)


if __name__ == "__main__":
    main()
