"""Cost of a barrier with a requested error, compared with fixed numbers of points and samples.

    python tests/benchmarks/barrier_error.py [--epochs 60]

Four pairs of mean-field posteriors, trained on the digits of scikit-learn from two seeds: dense and convolutional
networks, unaligned and aligned. For each pair the default (11 points, 32 samples) is run, and then its stated Monte
Carlo error is requested. Other fixed settings are run too; their CPU time is scaled to the same error, as the error
falls with the square root of the time. *cheapest* is the best of them. One thread, minimum of two runs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from itertools import product
from time import process_time
from typing import TYPE_CHECKING

import torch
from sklearn.datasets import load_digits
from torch import nn

import rebasin_core as rc
from rebasin_core.inference import MeanFieldVI, OptimizerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rebasin_core.barriers import LossCurve


@dataclass(frozen=True)
class Pair:
    """Two posteriors, and test data."""

    name: str
    reference: rc.Posterior
    candidate: rc.Posterior
    task: rc.Task


def dense() -> nn.Module:
    """Return an MLP."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def convolutional() -> nn.Module:
    """Return a small convolutional network."""
    blocks = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))


def pairs(epochs: int) -> Iterator[Pair]:
    """Train and yield the pairs."""
    images, targets = load_digits(return_X_y=True)
    inputs = torch.as_tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    labels = torch.as_tensor(targets)
    train, test = (inputs[:1200], labels[:1200]), (inputs[1200:], labels[1200:])
    batches = list(zip(train[0].split(100), train[1].split(100), strict=True))
    for name, make in (("dense", dense), ("convolutional", convolutional)):
        found = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            method = MeanFieldVI(epochs=epochs, prior_scale=0.2, optimizer=OptimizerSpec(name="Adam", lr=5e-3))
            found.append(method.fit(make(), batches, generator=torch.Generator().manual_seed(seed)).posterior)
        task = rc.Task(make(), [test])
        spec = rc.trace_spec(task.model, test[0][:2])
        yield Pair(f"{name}, unaligned", found[0], found[1], task)
        aligned = rc.match(found[0], found[1], spec).apply(found[1])
        yield Pair(f"{name}, aligned", found[0], aligned, task)


def timed(run: Callable[[], LossCurve]) -> tuple[float, LossCurve]:
    """Return CPU seconds, the best of two, and the curve."""
    times = []
    for _ in range(2):
        start = process_time()
        curve = run()
        times.append(process_time() - start)
    return min(times), curve


def main() -> None:
    """Print one line per pair."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for pair in pairs(options.epochs):
        estimate = partial(rc.barrier, pair.reference, pair.candidate, pair.task)
        seconds, default = timed(estimate)
        error = default.height_stderr
        asked, curve = timed(partial(estimate, error=error))
        goal = max(error, curve.height_data_stderr / 4)
        fixed = {}
        for points, samples in product((3, 5), (8, 16, 32, 64)):
            cost, other = timed(partial(estimate, num_points=points, num_samples=samples))
            fixed[points, samples] = cost * (other.height_stderr / goal) ** 2
        best = min(fixed, key=lambda setting: fixed[setting])
        print(
            f"{pair.name}: barrier {default.height:.4f}, errors {error:.4f} (Monte Carlo), "
            f"{default.height_data_stderr:.4f} (data); default {seconds:.2f} s; error requested {asked:.2f} s, "
            f"{len(curve.t)} points, barrier {curve.height:.4f} ± {curve.height_stderr:.4f}; ratio to the default "
            f"{seconds / asked:.1f}; cheapest {best}, {fixed[best]:.2f} s to an error of {goal:.4f}, ratio "
            f"{asked / fixed[best]:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
