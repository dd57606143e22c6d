"""Marginalized barrier between two Laplace approximations of laplace-torch, before and after alignment.

    pip install rebasin-laplace
    python docs/results/laplace_pair.py --root DATA --output laplace.jsonl

Networks and Laplace approximations are fitted on the first 5,000 training examples of MNIST.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from laplace import Laplace
from torch.utils.data import DataLoader, TensorDataset

import rebasin_core as rc
from rebasin_core.evaluation import FunctionalModel, HeldTask, LossEstimate, Sampling, held_batches, predict


def main() -> None:  # ruff: ignore[too-many-locals] - a script
    """Write one JSON line per structure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    whole = rc.build("dataset", name="mnist", root=arguments.root).load()
    data = replace(whole, train=whole.train.first(5000))
    architecture = rc.architectures.MLPArchitecture(hidden=[128, 128])
    models = [trained(architecture, data, seed) for seed in (1, 2)]
    spec = architecture.spec(models[0])
    for subset, structure in (("last_layer", "full"), ("all", "kron"), ("all", "diag")):
        start = time.time()
        fits = [fitted(model, data, subset, structure) for model in models]
        seconds = time.time() - start
        record: dict[str, Any] = {"subset": subset, "structure": structure, "fit_seconds": round(seconds)}
        record |= predictives(fits[0], models[0], data.test)
        options: dict[str, Any] = {
            "task": rc.Task(models[0], data.test.batches(1000)),
            "num_points": 7,
            "num_samples": 16,
        }
        curve = rc.barrier(*fits, **options)
        record["unaligned"] = [curve.height, curve.height_stderr]
        for matcher in ("weight", "wasserstein"):
            result = rc.match(*fits, spec, matcher=matcher)
            curve = rc.barrier(fits[0], result.apply(rc.as_posterior(fits[1])), **options)
            record[matcher] = [curve.height, curve.height_stderr]
        few = data.test.inputs[:20]
        before = fits[1](few)
        rc.write_back(fits[1], result.apply(rc.as_posterior(fits[1])))
        record["glm_change"] = (fits[1](few) - before).abs().max().item()
        print(record, flush=True)
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def trained(architecture: rc.architectures.MLPArchitecture, data: rc.data.DataSplits, seed: int) -> torch.nn.Module:
    """Return a network at a MAP estimate."""
    model = architecture.build(data.input_shape, 10, generator=torch.Generator().manual_seed(seed))
    method = rc.inference.MAPInference(epochs=40, prior_scale=0.1)
    train = data.train.batches(128, shuffle_seed=seed)
    model.load_state_dict(method.fit(model, train, generator=torch.Generator().manual_seed(seed)).posterior.mean)
    return model


def fitted(model: torch.nn.Module, data: rc.data.DataSplits, subset: str, structure: str) -> Any:
    """Return a fitted Laplace object for a copy of a network, with optimized marginal likelihood."""
    copy = rc.architectures.MLPArchitecture(hidden=[128, 128]).build(data.input_shape, 10)
    copy.load_state_dict(model.state_dict())
    laplace = Laplace(copy, "classification", subset_of_weights=subset, hessian_structure=structure)
    laplace.fit(DataLoader(TensorDataset(data.train.inputs, data.train.targets), batch_size=50))
    laplace.optimize_prior_precision(method="marglik")
    return laplace


def predictives(laplace: Any, model: torch.nn.Module, test: rc.data.Examples) -> dict[str, float]:
    """Return the NLL of sampled networks by rebasin_core and by laplace-torch, and of the GLM predictive."""
    functional = FunctionalModel(model)
    batches = held_batches(functional, test.batches(1000))
    found = predict(
        rc.as_posterior(laplace), HeldTask(functional, batches, rc.evaluation.CategoricalLikelihood()), Sampling(64)
    )
    estimate = LossEstimate.of(found)
    library = torch.cat([laplace(x, pred_type="nn", link_approx="mc", n_samples=64) for x, _ in test.batches(1000)])
    few = test.first(1000)  # the GLM predictive needs the Jacobian of all outputs with respect to all weights
    glm = torch.cat([laplace(x) for x, _ in few.batches(10)])
    rows = torch.arange(len(test))
    return {
        "nll_sampled": estimate.loss,
        "nll_stderr": estimate.stderr,
        "nll_sampled_by_laplace_torch": -library[rows, test.targets].log().mean().item(),
        "nll_glm_1000": -glm[rows[:1000], few.targets].log().mean().item(),
        "accuracy": estimate.score,
    }


if __name__ == "__main__":
    main()
