"""RMSE and NLL of all inference methods on two UCI regression datasets.

    python docs/results/uci_posteriors.py --root DATA --output uci.jsonl [--splits 20] [--only METHOD ...]

``DATA`` contains the datasets with the splits of Hernandez-Lobato and Adams. The network has one hidden layer of 50
units with ReLU, and predicts mean and noise (the `heteroscedastic` likelihood). Scores are in the units of the targets.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

import rebasin_core as rc
from rebasin_core.evaluation import FunctionalModel, HeldTask, LossEstimate, Sampling, held_batches, predict

ADAM = rc.inference.OptimizerSpec(name="Adam", lr=0.01)
LATE = rc.inference.ScheduleSpec(name="CosineAnnealingLR", T_max=200)
METHODS: dict[str, rc.Inference] = {
    "map": rc.inference.MAPInference(epochs=200, optimizer=ADAM, schedule=LATE),
    "mean_field_vi": rc.inference.MeanFieldVI(epochs=400, optimizer=ADAM, prior_scale=1.0),
    "mc_dropout": rc.inference.MCDropout(rate=0.05, epochs=200, optimizer=ADAM, schedule=LATE),
    "deep_ensemble": rc.inference.DeepEnsemble(members=5, epochs=200, optimizer=ADAM, schedule=LATE),
    "snapshot_ensemble": rc.inference.SnapshotEnsemble(members=5, epochs=250, optimizer=ADAM),
    "swag": rc.inference.SWAG(epochs=300, start=200, rank=20, optimizer=ADAM),
    "sgld": rc.inference.SGLD(epochs=600, learning_rate=0.01, burn_in=300, thinning=10, chains=4),
    "sghmc": rc.inference.SGHMC(epochs=600, learning_rate=0.002, burn_in=300, thinning=10, chains=4),
}


def unit_of(root: Path, name: str, split: int) -> float:
    """Return the standard deviation of the training targets of a split, by which the targets are divided."""
    with np.load(root / "uci" / f"{name}.npz") as archive:
        test = np.isin(np.arange(len(archive["y"])), archive["test_index"][split])
        return float(archive["y"][~test].std())


def score(posterior: rc.Posterior, model: torch.nn.Module, test: rc.data.Examples, unit: float) -> dict[str, float]:
    """Return RMSE and NLL of the predictive distribution, in the units of the targets."""
    functional = FunctionalModel(model, dtype=next(model.parameters()).dtype)
    batches = held_batches(functional, test.batches(1000))
    likelihood = rc.evaluation.HeteroscedasticGaussianLikelihood()
    estimate = LossEstimate.of(predict(posterior, HeldTask(functional, batches, likelihood), Sampling(128)))
    return {"rmse": unit * math.sqrt(estimate.score), "nll": estimate.loss + math.log(unit)}


def main() -> None:
    """Write one JSON line per dataset, method and split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--sets", nargs="+", default=["concrete", "energy"])
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    architecture = rc.architectures.MLPArchitecture(hidden=[50])
    for name in arguments.sets:
        for split in range(arguments.splits):
            data = rc.build("dataset", name="uci", dataset=name, root=arguments.root, split=split).load()
            unit = unit_of(arguments.root, name, split)
            for label in arguments.only:
                model = architecture.build(data.input_shape, 2, generator=torch.Generator().manual_seed(split))
                train, start = data.train.batches(32, shuffle_seed=split), time.time()
                fit = METHODS[label].fit(
                    model, train, likelihood="heteroscedastic", generator=torch.Generator().manual_seed(split)
                )
                record = {"set": name, "method": label, "split": split, "seconds": round(time.time() - start, 1)}
                record |= score(fit.posterior, model, data.test, unit)
                print(record, flush=True)
                with arguments.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
