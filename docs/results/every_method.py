"""Predictive scores of all inference methods on the same network, and barriers between two posteriors of each.

    python docs/results/every_method.py --root DATA --output results.jsonl --posteriors FOLDER [--only METHOD ...]

Fashion-MNIST or MNIST (``--data mnist``) is read from ``DATA``. One JSON line is written per result; results that are
already in the output are skipped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

import rebasin_core as rc
from rebasin_core.evaluation import FunctionalModel, HeldTask, LossEstimate, Sampling, held_batches, predict
from rebasin_core.tensors.statistics import mean_stderr

ADAM = rc.inference.OptimizerSpec(name="Adam", lr=1e-3)


def methods(scale: float) -> dict[str, rc.Inference]:
    """Return the methods, each with enough epochs for its loss to converge, times ``scale``."""

    def n(epochs: int, multiple: int = 1) -> int:
        return max(multiple, round(scale * epochs / multiple) * multiple)

    return {
        "map": rc.inference.MAPInference(epochs=n(10), optimizer=ADAM, prior_scale=0.1),
        "mean_field_vi": rc.inference.MeanFieldVI(epochs=n(20), optimizer=ADAM, prior_scale=0.1),
        "mc_dropout": rc.inference.MCDropout(rate=0.2, epochs=n(15), optimizer=ADAM, prior_scale=0.1),
        "deep_ensemble": rc.inference.DeepEnsemble(members=5, epochs=n(10), optimizer=ADAM, prior_scale=0.1),
        "snapshot_ensemble": rc.inference.SnapshotEnsemble(members=5, epochs=n(25, 5), optimizer=ADAM, prior_scale=0.1),
        "swag": rc.inference.SWAG(epochs=n(30), start=n(30) // 2, rank=15, prior_scale=0.1),
        "multi_swag": rc.inference.SWAG(epochs=n(30), start=n(30) // 2, rank=15, prior_scale=0.1, members=3),
        "sgld": rc.inference.SGLD(
            epochs=n(60), learning_rate=0.05, burn_in=n(30), chains=2, thinning=3, prior_scale=0.1
        ),
        "sghmc": rc.inference.SGHMC(
            epochs=n(60, 3), learning_rate=0.01, cycles=3, exploration=0.7, chains=2, prior_scale=0.1
        ),
    }


def scores(posterior: rc.Posterior, model: torch.nn.Module, test: rc.data.Examples) -> dict[str, float]:
    """Return NLL with its standard error over test examples, accuracy, ECE (15 bins) and Brier score."""
    functional = FunctionalModel(model)
    batches = held_batches(functional, test.batches(1000))
    found = predict(posterior, HeldTask(functional, batches, rc.evaluation.CategoricalLikelihood()), Sampling(64))
    estimate = LossEstimate.of(found)
    return {
        "nll": estimate.loss,
        "nll_stderr": mean_stderr(estimate.example_losses).item(),
        "accuracy": estimate.score,
        "ece": rc.metrics.expected_calibration_error(found.prediction, test.targets, bins=15),
        "brier": rc.metrics.brier_score(found.prediction, test.targets),
    }


def main() -> None:
    """Fit the posteriors that are not in the folder, and write the results that are not in the output."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--data", default="fashion_mnist")
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--posteriors", type=Path, required=True, help="folder of the fitted posteriors")
    arguments = parser.parse_args()
    done = (
        {json.loads(line)["result"] for line in arguments.output.read_text().splitlines()}
        if arguments.output.exists()
        else set()
    )
    data = rc.build("dataset", name=arguments.data, root=arguments.root).load()
    architecture = rc.architectures.MLPArchitecture(hidden=[128, 128])
    for name, method in methods(arguments.epochs).items():
        if arguments.only and name not in arguments.only:
            continue
        pair: list[rc.Posterior] = []
        for seed in (1, 2):
            model = architecture.build(data.input_shape, 10, generator=torch.Generator().manual_seed(seed))
            file = arguments.posteriors / f"{arguments.data}-{name}-{seed}.safetensors"
            label, start = f"{arguments.data} {name} {seed}", time.time()
            if not file.exists():
                train = data.train.batches(128, shuffle_seed=seed)
                fit = method.fit(model, train, generator=torch.Generator().manual_seed(seed + 2**32))
                fit.posterior.save(file, meta={"seconds": time.time() - start})
            seconds = time.time() - start
            pair.append(rc.load_posterior(file))
            if label not in done:
                record = {"result": label, "seconds": round(seconds), **scores(pair[-1], model, data.test)}
                write(arguments.output, record)
        label = f"{arguments.data} {name} barrier"
        if label not in done and name != "multi_swag":
            write(arguments.output, {"result": label, **barriers(pair, model, architecture.spec(model), data.test)})


def barriers(
    pair: list[rc.Posterior], model: torch.nn.Module, spec: rc.PermutationSpec, test: rc.data.Examples
) -> dict[str, object]:
    """Return the barrier between two posteriors of the same class, before and after alignment."""
    options = {"task": rc.Task(model, test.batches(1000)), "num_points": 7}
    if not isinstance(pair[0], rc.posteriors.PointPosterior):
        options["num_samples"] = 16
    unaligned = rc.barrier(*pair, **options)
    found: dict[str, object] = {"kind": pair[0].kind, "unaligned": [unaligned.height, unaligned.height_stderr]}
    for matcher in ("weight", "wasserstein"):
        result = rc.match(*pair, spec, matcher=matcher)
        curve = rc.barrier(pair[0], result.apply(pair[1]), **options)
        found[matcher] = [curve.height, curve.height_stderr]
    if isinstance(pair[0], rc.posteriors.SamplesPosterior):
        # For sets with several modes: align the samples within each set, then match the two sets.
        within = [rc.align_samples(q, spec).samples for q in pair if isinstance(q, rc.posteriors.SamplesPosterior)]
        curve = rc.barrier(within[0], rc.match(*within, spec, matcher="weight").apply(within[1]), **options)
        found["aligned_within"] = [curve.height, curve.height_stderr]
    return found


def write(path: Path, record: dict[str, object]) -> None:
    """Append a record to a file of JSON lines, and print it."""
    print(record, flush=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
