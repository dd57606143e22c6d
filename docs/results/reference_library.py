"""Comparison with the library posteriors at equal settings: the same networks, data, prior and learning rates.

    pip install rebasin-posteriors
    python docs/results/reference_library.py --root DATA --output reference.jsonl [--splits 5]

A 784-128-128-10 network on Fashion-MNIST, and a network with one hidden layer of 50 units on two UCI datasets, as in
`every_method.yaml` and `uci_posteriors.yaml`. One chain each. SGHMC has the learning rate 0.01 and the friction 0.1 per
step, in the library's parameters ``lr = 0.1`` and ``alpha = 1`` (for UCI 0.002: ``lr = 0.0447``, ``alpha = 2.236``).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from comparison import image_scores, regression_scores, write
from rebasin_posteriors import PosteriorsSGHMC, PosteriorsSGLD, PosteriorsVI

import rebasin_core as rc

REGRESSIONS = ("concrete", "energy")


def methods(epochs: int, rate: float, step: float, scale: float) -> dict[str, rc.Inference]:
    """Return pairs of methods: of rebasin_core, then of the library."""
    burn_in, root = epochs // 2, math.sqrt(step)
    chain = {"epochs": epochs, "burn_in": burn_in, "prior_scale": scale}
    adam = rc.inference.OptimizerSpec(name="Adam", lr=1e-3)
    start = {"epochs": epochs, "initial_stddev": 0.01, "prior_scale": scale}
    return {
        "sgld": rc.inference.SGLD(learning_rate=rate, **chain),
        "sgld, library": PosteriorsSGLD(learning_rate=rate, **chain),
        "sghmc": rc.inference.SGHMC(learning_rate=step, momentum_decay=0.1, **chain),
        "sghmc, library": PosteriorsSGHMC(learning_rate=root, friction=0.1 / root, **chain),
        "mean_field_vi": rc.inference.MeanFieldVI(optimizer=adam, **start),
        "mean_field_vi, library": PosteriorsVI(learning_rate=1e-3, **start),
    }


def images(root: Path, output: Path) -> None:
    """Run all methods on Fashion-MNIST."""
    data = rc.build("dataset", name="fashion_mnist", root=root).load()
    architecture = rc.architectures.MLPArchitecture(hidden=[128, 128])
    for label, method in methods(30, 0.05, 0.01, 0.1).items():
        model = architecture.build(data.input_shape, 10, generator=torch.Generator().manual_seed(1))
        train, start = data.train.batches(128, shuffle_seed=1), time.time()
        fit = method.fit(model, train, generator=torch.Generator().manual_seed(1))
        found = {"set": "fashion_mnist", "method": label, "seconds": round(time.time() - start)}
        write(output, found | image_scores(fit.posterior, model, data))


def regressions(chosen: list[str], root: Path, output: Path, splits: int) -> None:
    """Run all methods on UCI datasets."""
    architecture = rc.architectures.MLPArchitecture(hidden=[50])
    for name in chosen:
        for split in range(splits):
            data = rc.build("dataset", name="uci", dataset=name, root=root, split=split).load()
            for label, method in methods(400, 0.01, 0.002, 1.0).items():
                model = architecture.build(data.input_shape, 2, generator=torch.Generator().manual_seed(split))
                train, start = data.train.batches(32, shuffle_seed=split), time.time()
                generator = torch.Generator().manual_seed(split)
                fit = method.fit(model, train, likelihood="heteroscedastic", generator=generator)
                found = {"set": name, "method": label, "split": split, "seconds": round(time.time() - start)}
                write(output, found | regression_scores(fit.posterior, model, data))


def main() -> None:
    """Write one JSON line per dataset, method and split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=["fashion_mnist", *REGRESSIONS])
    arguments = parser.parse_args()
    if "fashion_mnist" in arguments.sets:
        images(arguments.root, arguments.output)
    chosen = [name for name in REGRESSIONS if name in arguments.sets]
    regressions(chosen, arguments.root, arguments.output, arguments.splits)


if __name__ == "__main__":
    main()
