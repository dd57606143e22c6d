"""Coverage of the confidence intervals of the maximum mean discrepancy, and the size and power of its test.

    python docs/results/discrepancy_coverage.py

Samples are independent normal draws or stationary autoregressive chains in three dimensions, for which the discrepancy
can be computed.
"""

from __future__ import annotations

import math
from statistics import mean, stdev

import torch

from rebasin_core.analysis import maximum_mean_discrepancy

BANDWIDTH, DIMENSION, RUNS = 2.0, 3, 500
# Number of chains, draws per chain, correlation of successive draws.
SAMPLES = ((1, 20, 0.0), (1, 100, 0.0), (4, 50, 0.5), (4, 100, 0.7), (4, 200, 0.9))


def chains(generator: torch.Generator, count: int, length: int, correlation: float, shift: float) -> torch.Tensor:
    """Return chains with normal marginals of variance 1, in sequence."""
    noise = torch.randn(count, length, DIMENSION, generator=generator, dtype=torch.float64)
    found = noise.clone()
    for t in range(1, length):
        found[:, t] = correlation * found[:, t - 1] + math.sqrt(1 - correlation**2) * noise[:, t]
    return found.flatten(0, 1) + shift


def exact(shift: float) -> float:
    """Return the squared discrepancy between normal distributions whose means differ by a shift of each coordinate."""
    square = BANDWIDTH**2
    same = math.pow(square / (square + 2), DIMENSION / 2)
    return 2 * same * -math.expm1(-DIMENSION * shift**2 / (2 * (square + 2)))


def main() -> None:
    """Print a table."""
    print(
        "| chains x draws | correlation | shift | bias / deviation | error / deviation | coverage | rejected | blocks |"
    )
    print("|---|---|---|---|---|---|---|---|")
    generator = torch.Generator().manual_seed(0)
    for count, length, correlation in SAMPLES:
        for shift in (0.0, 0.5):
            index = torch.arange(count).repeat_interleave(length) if correlation else None
            found = [
                maximum_mean_discrepancy(
                    {"w": chains(generator, count, length, correlation, 0.0)},
                    {"w": chains(generator, count, length, correlation, shift)},
                    chains=(index, index),
                    bandwidth=BANDWIDTH,
                    num_permutations=199,
                    generator=generator,
                )
                for _ in range(RUNS)
            ]
            deviation = stdev(each.squared for each in found)
            bias = (mean(each.squared for each in found) - exact(shift)) / deviation
            ratio = mean(each.stderr for each in found) / deviation
            covered = mean(each.interval()[0] <= exact(shift) <= each.interval()[1] for each in found)
            rejected = mean(each.p_value <= 0.05 for each in found)
            blocks = mean(each.num_blocks[0] for each in found)
            print(
                f"| {count} x {length} | {correlation} | {shift} | {bias:.2f} | {ratio:.2f} | {covered:.3f} | "
                f"{rejected:.3f} | {blocks:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
