"""Stein variational gradient descent on UCI data, with and without alignment of the particles.

    python docs/results/stein.py DATA

DATA is a folder with UCI datasets, in the format of `rebasin_core.data.UCISource`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, cast

import torch

import rebasin_core as rc
from rebasin_core.data import UCISource
from rebasin_core.evaluation import FunctionalModel
from rebasin_core.evaluation.likelihoods import GaussianLikelihood
from rebasin_core.inference import NUTS, SVGD, DeepEnsemble, Inference, OptimizerSpec

if TYPE_CHECKING:
    from rebasin_core.posteriors import SamplesPosterior

WIDTH, SEEDS, EPOCHS = 50, (0, 1, 2), 2_000
NOISE = GaussianLikelihood(scale=0.3)
ADAM = OptimizerSpec(lr=0.01)


def main() -> None:
    """Print a table: means over seeds of the initialization, with standard deviations in parentheses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--particles", type=int, nargs="*", default=(8, 16, 32))
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    arguments = parser.parse_args()
    print("| method | test log-likelihood | standard deviation of outputs | median distance |\n|---|---|---|---|")
    reference = NUTS(chains=4, warmup=200, draws=100, max_depth=7)
    print(f"| `nuts` | {summary([measured(reference, arguments.data, arguments.seeds[0])])} |", flush=True)
    for count in arguments.particles:
        methods: dict[str, Inference] = {
            "`deep_ensemble`": DeepEnsemble(members=count, epochs=EPOCHS, optimizer=ADAM),
            "`svgd`": SVGD(particles=count, epochs=EPOCHS, optimizer=ADAM),
            "`svgd`, aligned": SVGD(particles=count, epochs=EPOCHS, optimizer=ADAM, align_every=100),
        }
        for name, method in methods.items():
            runs = [measured(method, arguments.data, seed) for seed in arguments.seeds]
            print(f"| {name}, {count} | {summary(runs)} |", flush=True)


def summary(runs: list[tuple[float, ...]]) -> str:
    """Return the means and standard deviations of the columns."""
    columns = [[run[k] for run in runs] for k in range(len(runs[0]))]
    texts = [f"{mean(c):.3f}" + (f" ({stdev(c):.3f})" if len(c) > 1 else "") for c in columns]
    return " | ".join(texts)


def measured(method: Inference, root: Path, seed: int) -> tuple[float, ...]:
    """Fit a posterior, and return the values of the columns."""
    data = UCISource(dataset="yacht", root=root).load()
    batch = data.train.inputs, data.train.targets
    architecture = rc.architectures.MLPArchitecture(hidden=(WIDTH,), activation="tanh")
    model = architecture.build(data.input_shape, 1, generator=torch.Generator().manual_seed(seed))
    spec = rc.trace_spec(model, batch[0][:2])
    fit = method.fit(model, [batch], likelihood=NOISE, spec=spec, generator=torch.Generator().manual_seed(100 + seed))
    samples = cast("SamplesPosterior", fit.posterior)
    function = FunctionalModel(model)
    outputs = torch.stack([function(draw.mean, data.test.inputs) for draw in samples.components])
    logs = torch.stack([NOISE.log_prob(each, data.test.targets) for each in outputs])
    score = (logs.logsumexp(0) - math.log(len(logs))).mean().item()
    aligned = rc.align_samples(samples, spec, matcher="weight").samples
    flat = torch.cat([tensor.flatten(1) for tensor in aligned.samples.values()], 1)
    return score, outputs.std(0).mean().item(), torch.pdist(flat).median().item()


if __name__ == "__main__":
    main()
