"""Measure how often matchers recover a planted permutation, at increasing noise.

    python docs/results/planted.py --checkpoints FOLDER --data DATA [--seeds 10]

The reference is a trained network (`pairs.py`). The candidate is a permuted copy with Gaussian noise, whose standard
deviation is given relative to the root mean square of each tensor. *Loop* is Algorithm 1 of Git Re-Basin as published,
initialized at the identity (`tests/benchmarks/matching.py`). The table has the share of recovered units (mean over the
seeds, three for `sinkhorn`), and in parentheses the number of seeds with full recovery.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from pairs import load
from tabulate import tabulate

import rebasin_core as rc

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "benchmarks"))
from matching import plain

NOISE = (0.0, 0.5, 1.0, 2.0, 3.0, 5.0)
METHODS: dict[str, rc.Matcher | None] = {
    "loop": None,
    "weight, from the identity": rc.matchers.WeightMatcher(start="identity"),
    "weight, greedy": rc.matchers.WeightMatcher(start="greedy"),
    "restarts of weight, 5": rc.matchers.RestartsMatcher(matcher=rc.matchers.WeightMatcher(start="greedy"), restarts=5),
    "frank_wolfe": rc.matchers.FrankWolfeMatcher(),
    "sinkhorn": rc.matchers.SinkhornMatcher(epochs=10),
}


def noisy(mean: dict[str, torch.Tensor], noise: float, seed: int) -> dict[str, torch.Tensor]:
    """Return tensors with Gaussian noise relative to their root mean square."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + noise * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in mean.items()
    }


def recovered_share(
    method: str, spec: rc.PermutationSpec, reference: rc.posteriors.PointPosterior, noise: float, seed: int
) -> float:
    """Return the share of units whose permutation is recovered."""
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(seed))
    noisy_copy = rc.posteriors.PointPosterior(noisy(reference.mean, noise, seed), buffers=reference.buffers)
    candidate = planted.apply(noisy_copy)
    matcher = METHODS[method]
    if matcher is None:
        layout = spec.layout
        found = rc.Permutation(layout, plain(layout, reference.mean, candidate.mean))
    else:
        generator = torch.Generator().manual_seed(seed)
        found = rc.match(reference, candidate, spec, matcher, generator=generator).permutation
    wrong = planted.compose(found).moved
    return 1 - sum(wrong.values()) / sum(group.size for group in spec.layout.groups.values())


def main() -> None:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("mnist-mlp", "cifar10-resnet20"):
        pair = load(name, arguments.checkpoints, arguments.data)
        rows = []
        for method in arguments.methods:
            row, seeds = [method], min(arguments.seeds, 3) if method == "sinkhorn" else arguments.seeds
            for noise in NOISE:
                shares = [recovered_share(method, pair.spec, pair.networks[0], noise, seed) for seed in range(seeds)]
                complete = sum(share == 1 for share in shares)
                row.append(f"{100 * sum(shares) / len(shares):.1f} % ({complete})")
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
        print(f"\n{name}\n")
        print(tabulate(rows, headers=["noise", *map(str, NOISE)], tablefmt="github"))


if __name__ == "__main__":
    main()
