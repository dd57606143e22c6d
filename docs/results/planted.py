"""Planted permutations, with noise added until they are lost: how often each method puts every unit back.

    python docs/results/planted.py --checkpoints FOLDER --data DATA [--seeds 10]

The reference is a trained network (`pairs.py`); the candidate is a moved copy of it with Gaussian noise, in parts of
the root mean square of every tensor. *Loop* is algorithm 1 of Git Re-Basin as published, from the identity
(`tests/benchmarks/matching.py`). Given is the share of units put back, the mean over the seeds (three of them for
`sinkhorn`), and in brackets how often all of them were.
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
    "weight, outward": rc.matchers.WeightMatcher(start="greedy"),
    "restarts of weight, 5": rc.matchers.RestartsMatcher(matcher=rc.matchers.WeightMatcher(), restarts=5),
    "frank_wolfe": rc.matchers.FrankWolfeMatcher(),
    "sinkhorn": rc.matchers.SinkhornMatcher(epochs=10),
}


def noisy(mean: dict[str, torch.Tensor], noise: float, seed: int) -> dict[str, torch.Tensor]:
    """Return tensors with noise in parts of their root mean square."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: tensor + noise * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
        for name, tensor in mean.items()
    }


def put_back(
    method: str, pair: rc.PermutationSpec, reference: rc.posteriors.PointPosterior, noise: float, seed: int
) -> float:
    """Return the share of the units that are put back."""
    planted = pair.random_permutation(generator=torch.Generator().manual_seed(seed))
    moved = planted.apply(rc.posteriors.PointPosterior(noisy(reference.mean, noise, seed), buffers=reference.buffers))
    matcher = METHODS[method]
    if matcher is None:
        layout = pair.layout
        found = rc.Permutation(layout, plain(layout, reference.mean, moved.mean))
    else:
        found = rc.match(reference, moved, pair, matcher, generator=torch.Generator().manual_seed(seed)).permutation
    left = planted.compose(found).moved
    return 1 - sum(left.values()) / sum(group.size for group in pair.layout.groups.values())


def main() -> None:
    """Print one table a network."""
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
                shares = [put_back(method, pair.spec, pair.ends[0], noise, seed) for seed in range(seeds)]
                whole = sum(share == 1 for share in shares)
                row.append(f"{100 * sum(shares) / len(shares):.1f} % ({whole})")
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
        print(f"\n{name}\n")
        print(tabulate(rows, headers=["noise", *map(str, NOISE)], tablefmt="github"))


if __name__ == "__main__":
    main()
