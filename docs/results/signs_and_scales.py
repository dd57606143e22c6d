"""Contribution of signs and scales to the alignment of MLPs: single networks and mean-field posteriors.

    python docs/results/signs_and_scales.py --root DATA [--seeds N]

Trains networks with tanh and with ReLU on the first 10,000 training images of MNIST, and aligns each seed with the
next one: by permutations only, and also by signs (tanh) or scales (ReLU). Prints one JSON line per pair and method.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

import rebasin_core as rc

if TYPE_CHECKING:
    from collections.abc import Mapping

INFERENCE = {
    "point": rc.inference.MAPInference(epochs=15, prior_scale=0.1),
    "mean_field": rc.inference.MeanFieldVI(epochs=15, prior_scale=0.1, initial_stddev=0.02),
}
MATCHER = {"point": "weight", "mean_field": "wasserstein"}


def posterior(
    activation: Literal["relu", "tanh"], kind: str, seed: int, data: rc.data.DataSplits
) -> tuple[rc.Posterior, torch.nn.Module]:
    """Return a fitted posterior and its network."""
    architecture = rc.architectures.MLPArchitecture(hidden=[128, 128], activation=activation)
    generator = torch.Generator().manual_seed(seed)
    model = architecture.build(data.input_shape, 10, generator=generator)
    fit = INFERENCE[kind].fit(model, data.train.batches(128, shuffle_seed=seed), generator=generator)
    return fit.posterior, model


def compare(
    kind: str, pair: tuple[rc.Posterior, rc.Posterior], spec: rc.PermutationSpec, task: rc.Task
) -> Mapping[str, object]:
    """Return barrier heights and distances, by method."""
    reference, candidate = pair
    found: dict[str, object] = {}
    for method in ("unaligned", "permutation", "full"):
        aligned = candidate
        if method != "unaligned":
            matcher = {"name": MATCHER[kind], "symmetry": method}
            aligned = rc.match(reference, candidate, spec, matcher=matcher).apply(candidate)
        curve = rc.barrier(reference, aligned, task, num_points=7, num_samples=16)
        found[method] = {
            "barrier": round(curve.height, 4),
            "stderr": round(curve.height_stderr, 4),
            "data_stderr": round(curve.height_data_stderr, 4),
            "distance": round(rc.wasserstein_distance(reference, aligned), 3),
        }
    return found


def main() -> None:
    """Print one line per pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = rc.build("dataset", name="mnist", root=options.root).load()
    data = replace(whole, train=whole.train.first(10_000))
    for activation in ("tanh", "relu"):
        for kind in INFERENCE:
            fits = [posterior(activation, kind, seed, data) for seed in range(options.seeds + 1)]
            model = fits[0][1]
            spec = rc.trace_spec(model, data.test.inputs[:2])
            task = rc.Task(model, data.test.first(5000).batches(1000))
            for seed in range(options.seeds):
                found = compare(kind, (fits[seed][0], fits[seed + 1][0]), spec, task)
                print(json.dumps({"activation": activation, "kind": kind, "seed": seed, **found}), flush=True)


if __name__ == "__main__":
    main()
