"""How often coordinate descent finds the global optimum, on networks small enough to enumerate permutations.

    python tiny_networks.py [PAIRS]

The optimum is exact. It enumerates all permutations of every second hidden layer. For each, the other hidden layers are
independent linear assignment problems, solved by SciPy.
"""

from __future__ import annotations

import sys
from itertools import permutations, product

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from tabulate import tabulate

import rebasin_core as rc

INPUTS, OUTPUTS = 4, 3
SHAPES = [[3], [5], [3, 3], [5, 5], [3, 3, 3], [4, 4, 4]]
Layers = list[np.ndarray]


def gaussian(spec: rc.PermutationSpec, seed: int) -> rc.posteriors.DiagonalGaussianPosterior:
    """Return a mean-field Gaussian posterior with random means and standard deviations."""
    g = torch.Generator().manual_seed(seed)
    shapes = {name: spec.layout.shape(name) for name in spec.axes}
    mean = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    stddev = {name: 0.2 + torch.rand(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    return rc.posteriors.DiagonalGaussianPosterior(mean, stddev)


def features(q: rc.posteriors.DiagonalGaussianPosterior, kind: str) -> Layers:
    """Return the features that a matcher compares, one array ``[channels, outputs, inputs]`` for each layer."""
    layers = []
    for name, mean in q.mean.items():
        m, s = mean.numpy(), q.stddev[name].numpy()
        channels = {
            "mean": [m],
            "moments": [m, s],
            "second": [s**2 + m**2, m],
            "natural": [-0.5 / s**2, m / s**2],
        }
        layers.append(np.stack(channels[kind]))
    return layers


def optimum(left: Layers, right: Layers, hidden: list[int]) -> float:
    """Return the maximum of the objective over all permutations."""
    depth = len(hidden)
    enumerated = [layer for layer in range(depth) if layer % 2 == 1]
    best = -np.inf
    for choice in product(*(permutations(range(hidden[layer])) for layer in enumerated)):
        order = {layer: list(index) for layer, index in zip(enumerated, choice, strict=True)}
        permuted = [
            r[:, order.get(layer, slice(None))][:, :, order.get(layer - 1, slice(None))]
            for layer, r in enumerate(right)
        ]
        # With odd layers fixed, even layers are independent; the last product has no even layer if depth is even.
        total = 0.0
        for layer in range(0, depth, 2):
            similarity = np.einsum("coi,cpi->op", left[layer], permuted[layer])
            similarity += np.einsum("coi,coj->ij", left[layer + 1], permuted[layer + 1])
            rows, columns = linear_sum_assignment(similarity, maximize=True)
            total += similarity[rows, columns].sum()
        if depth % 2 == 0:
            total += (left[depth] * permuted[depth]).sum()
        best = max(best, total)
    return best


def main() -> None:
    """Print the table."""
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    matchers = {
        "weight": (rc.matchers.WeightMatcher(), "mean", "mean"),
        "wasserstein": (rc.matchers.WassersteinMatcher(), "moments", "moments"),
        "kl": (rc.matchers.KLMatcher(), "natural", "second"),
    }
    rows = []
    for hidden in SHAPES:
        architecture = rc.architectures.MLPArchitecture(hidden=hidden, bias=False)
        spec = architecture.spec(architecture.build((INPUTS,), OUTPUTS))
        for name, (matcher, left, right) in matchers.items():
            found = below = 0
            for seed in range(pairs):
                q, r = gaussian(spec, seed), gaussian(spec, seed + 10_000)
                result = matcher.match(q, r, spec)
                best = optimum(features(q, left), features(r, right), hidden)
                found += result.objective > best - 1e-9 * abs(best)
                below += result.objective < result.identity_objective
            widths = "-".join(map(str, [INPUTS, *hidden, OUTPUTS]))
            rows.append([widths, name, f"{100 * found / pairs:.0f} %", below])
    headers = ["network", "matcher", "global optimum", f"worse than the identity (of {pairs})"]
    print(tabulate(rows, headers=headers, tablefmt="github"))


if __name__ == "__main__":
    main()
