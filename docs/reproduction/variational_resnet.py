"""Fit mean-field posteriors around two published CIFAR-10 ResNet-20s, and estimate the marginalized barrier.

    python docs/reproduction/variational_resnet.py --checkpoints FOLDER --data DATA --output resnet.jsonl

Variational inference from random initialization needs a GPU. Here it starts at the published weights (test accuracies
of 91.7 % and 90.8 %), as in MOPED: the prior is centered at them, and the initial standard deviations are a tenth of
each weight. Then it trains for three epochs on 10,000 images. All parameters are random: convolutions, scales and
shifts of the normalizations, and the head. Batch-normalization statistics are recomputed at interior points.
`../results/pairs.py` lists the required files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch

import rebasin_core as rc

sys.path.insert(0, str(Path(__file__).parents[1] / "results"))
from pairs import Pair, load


def fitted(pair: Pair, network: rc.posteriors.PointPosterior, images: rc.data.Examples) -> rc.Posterior:
    """Fit a posterior around one published network."""
    pair.model.load_state_dict({**network.mean, **network.buffers}, strict=False)
    method = rc.inference.MeanFieldVI(
        epochs=3,
        optimizer=rc.inference.OptimizerSpec(name="Adam", lr=5e-4, fused=True),
        schedule=rc.inference.ScheduleSpec(name="CosineAnnealingLR", T_max=3),
        prior_scale=0.1,
        kl_weight=0.05,
        moped=0.1,
    )
    generator = torch.Generator().manual_seed(0)
    return method.fit(pair.model, images.batches(128, shuffle_seed=0), generator=generator, progress=True).posterior


def measure(  # ruff: ignore[too-many-positional-arguments] - a script
    pair: Pair,
    endpoints: list[rc.Posterior],
    calibration: rc.data.TensorBatches,
    test: rc.data.TensorBatches,
    output: Path,
    seconds: int,
) -> None:
    """Write the barrier before and after each alignment."""
    estimator = {"name": "reset", "estimator": {"name": "marginalized", "num_points": 5, "num_samples": 8}}
    for name in ("unaligned", "weight", "wasserstein", "activation"):
        start, aligned = time.time(), endpoints[1]
        if name != "unaligned":
            aligned = rc.match(*endpoints, pair.spec, task=rc.Task(pair.model, calibration), matcher=name).apply(
                aligned
            )
        matched = time.time() - start
        task = rc.Task(pair.model, test, calibration=calibration)
        curve = rc.barrier(endpoints[0], aligned, task, estimator=estimator)
        middle = curve.t.index(0.5)
        record = {
            "alignment": name,
            "height": [curve.height, curve.height_stderr, curve.height_data_stderr],
            "scores": [curve.score[k] for k in (0, middle, -1)],
            "losses": [curve.loss[k] for k in (0, middle, -1)],
            "seconds": [seconds, round(matched), round(time.time() - start - matched)],
        }
        print(record, flush=True)
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def main() -> None:
    """Write one record per alignment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--train", type=int, default=10_000, help="number of training images")
    parser.add_argument("--test", type=int, default=2_000, help="number of test images")
    arguments = parser.parse_args()
    pair = load("cifar10-resnet20", arguments.checkpoints, arguments.data)
    every = rc.build("dataset", name="cifar10", root=arguments.data).load()
    train, test = every.train.first(arguments.train), every.test.first(arguments.test).batches(500)
    start = time.time()
    posteriors = [fitted(pair, network, train) for network in pair.networks]
    seconds = time.time() - start
    for posterior in posteriors:
        stddev = torch.cat([t.flatten() for t in posterior.stddev.values()]).median()
        scores = rc.score(posterior, rc.Task(pair.model, test), num_samples=8)
        print(f"{scores.nll:.3f} nats, {scores.values['accuracy']:.4f}, median stddev {stddev:.4f}", flush=True)
    measure(pair, posteriors, train.first(1000).batches(500), test, arguments.output, round(seconds))


if __name__ == "__main__":
    main()
