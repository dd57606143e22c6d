"""Mean-field posteriors around two published ResNet-20s of CIFAR-10, and the marginalised barrier between them.

    python docs/reproduction/variational_resnet.py --checkpoints FOLDER --data DATA --output resnet.jsonl

Training a ResNet-20 from its first values by variational inference takes a graphics processor; here it begins at the
published weights (91.7 % and 90.8 % of the test images), as MOPED does: prior about them, standard deviations of a
tenth of each weight, then three passes over 10,000 images. Everything is stochastic: convolutions, scales and shifts
of the normalisations, head. Statistics of the normalisations are taken anew between the ends. `../results/pairs.py`
says which files are needed.
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


def fitted(pair: Pair, end: rc.posteriors.PointPosterior, images: rc.data.Examples) -> rc.Posterior:
    """Return the posterior around one published network."""
    pair.model.load_state_dict({**end.mean, **end.buffers}, strict=False)
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
    ends: list[rc.Posterior],
    some: rc.data.TensorBatches,
    test: rc.data.TensorBatches,
    output: Path,
    seconds: int,
) -> None:
    """Write the barrier without and with each alignment."""
    estimator = {"name": "reset", "estimator": {"name": "marginalized", "num_points": 5, "num_samples": 8}}
    for name in ("unaligned", "weight", "wasserstein", "activation"):
        start, moved = time.time(), ends[1]
        if name != "unaligned":
            moved = rc.match(*ends, pair.spec, task=rc.Task(pair.model, some), matcher=name).apply(moved)
        matched = time.time() - start
        curve = rc.barrier(ends[0], moved, rc.Task(pair.model, test, calibration=some), estimator=estimator)
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
    """Write one line an alignment."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--train", type=int, default=10_000, help="images to train on")
    parser.add_argument("--test", type=int, default=2_000, help="images to measure on")
    arguments = parser.parse_args()
    pair = load("cifar10-resnet20", arguments.checkpoints, arguments.data)
    every = rc.build("dataset", name="cifar10", root=arguments.data).load()
    train, test = every.train.first(arguments.train), every.test.first(arguments.test).batches(500)
    start = time.time()
    ends = [fitted(pair, network, train) for network in pair.networks]
    seconds = time.time() - start
    for end in ends:
        deviations = torch.cat([t.flatten() for t in end.stddev.values()])
        found = rc.score(end, rc.Task(pair.model, test), num_samples=8)
        print(f"{found.nll:.3f} nats, {found.values['accuracy']:.4f}, deviations {deviations.median():.4f}", flush=True)
    measure(pair, ends, train.first(1000).batches(500), test, arguments.output, round(seconds))


if __name__ == "__main__":
    main()
