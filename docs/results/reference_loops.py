"""Comparison with a plain PyTorch training loop and the wrappers of torch-uncertainty, at equal settings.

    pip install torch-uncertainty
    python docs/results/reference_loops.py --root DATA --output loops.jsonl [--splits 3]

Networks, data, batches and optimizers are those of `every_method.yaml` (Fashion-MNIST) and `uci_posteriors.yaml`. The
reference is trained by ten lines of PyTorch from the same initialization. Its posterior (SWAG, snapshots, MC dropout)
and predictions are those of torch-uncertainty; its scores are computed by `torch.distributions` and torchmetrics.
``max_difference`` is the largest absolute difference between trained weights, for methods with equal steps.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from comparison import image_scores, methods_of, regression_scores, write
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.nn import functional
from torch_uncertainty.methods import SWAG, CheckpointCollector, mc_dropout
from torchmetrics.classification import MulticlassCalibrationError

import rebasin_core as rc

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_SAMPLES = 64


@dataclass
class Problem:
    """Network, data and settings of the methods."""

    model: nn.Module
    data: rc.data.DataSplits
    batch_size: int
    seed: int
    loss: Callable[[Tensor, Tensor], Tensor]
    rate: float
    prior_scale: float
    dropout: float
    epochs: dict[str, int]
    decays: bool = False

    def train(self, model: nn.Module, method: str, end_epoch: Callable[[int], None] | None = None) -> None:
        """Minimize the mean loss plus the term of the prior with Adam (for SWAG on images: SGD)."""
        epochs, batches = self.epochs[method], self.data.train.batches(self.batch_size, shuffle_seed=self.seed)
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=self.rate)
        if method == "swag" and not self.decays:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        steps = math.ceil(len(self.data.train.targets) / self.batch_size)
        by_step = by_epoch = None
        if method == "snapshot_ensemble":
            by_step = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, steps * epochs // 5)
        elif self.decays and method != "swag":
            by_epoch = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
        weight = 1 / (2 * self.prior_scale**2 * len(self.data.train.targets))
        for epoch in range(epochs):
            batches.set_epoch(epoch)
            for inputs, targets in batches:
                optimizer.zero_grad()
                penalty = sum(parameter.square().sum() for parameter in model.parameters())
                # Weight of the batch by its number of examples, as in rebasin_core.
                batch_weight = len(targets) * steps / len(self.data.train.targets)
                (batch_weight * (self.loss(model(inputs), targets) + weight * penalty)).backward()
                optimizer.step()
                if by_step is not None:
                    by_step.step()
            if by_epoch is not None:
                by_epoch.step()
            if end_epoch is not None:
                end_epoch(epoch)

    @torch.no_grad()
    def outputs(self, networks: list[nn.Module]) -> Tensor:
        """Return the outputs of networks on the test data, ``[S, N, K]``."""
        return torch.stack([network(self.data.test.inputs) for network in networks])


def networks_of(problem: Problem, method: str) -> tuple[nn.Module, Tensor]:
    """Train the reference posterior; return its network (or mean) and its outputs on test data."""
    torch.manual_seed(problem.seed)
    model = copy.deepcopy(problem.model)
    if method == "map":
        problem.train(model, method)
        return model, problem.outputs([model])
    if method == "deep_ensemble":
        members = [model, *(_other(model) for _ in range(4))]
        for member in members:
            problem.train(member, method)
        return model, problem.outputs(members)
    if method == "snapshot_ensemble":
        length = problem.epochs[method] // 5
        collector = CheckpointCollector(
            model, save_schedule=[length * k - 1 for k in range(1, 6)], use_final_model=False
        )
        problem.train(model, method, collector.update_wrapper)
        return model, problem.outputs(list(collector.saved_models))
    if method == "mc_dropout":
        for index, layer in list(enumerate(model.layers))[1:]:
            model.layers[index] = nn.Sequential(nn.Dropout(problem.dropout), layer)
        problem.train(model, method)
        dropout = mc_dropout(model, num_estimators=NUM_SAMPLES).eval()
        with torch.no_grad():
            return model, dropout(problem.data.test.inputs).unflatten(0, (NUM_SAMPLES, -1))
    start = problem.epochs[method] * (2 if problem.decays else 1) // (3 if problem.decays else 2)
    rank = 20 if problem.decays else 15
    wrapped = SWAG(model, start - 1, 1, scale=0.5, max_num_models=rank, var_clamp=1e-30, num_estimators=1)
    problem.train(model, method, wrapped.update_wrapper)
    sampled = [wrapped.sample(0.5, diag_covariance=False) for _ in range(NUM_SAMPLES)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(wrapped.swag_stats[f"{wrapped.prfx}{name}_mean"])
    return model, problem.outputs(sampled)


def _other(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    for layer in other.layers:
        layer.reset_parameters()
    return other


def max_difference(posterior: rc.Posterior, reference: nn.Module, method: str) -> float | None:
    """Return the largest difference between means or last snapshots; None for methods with other steps."""
    if method not in {"map", "swag", "snapshot_ensemble"}:
        return None
    trained = {n: t[-1] for n, t in posterior.samples.items()} if method == "snapshot_ensemble" else posterior.mean
    return max((trained[name] - parameter).abs().max().item() for name, parameter in reference.named_parameters())


def image_scores_of(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return NLL, accuracy, ECE (15 bins) and Brier score of the predictive distribution."""
    predictive = outputs.softmax(-1).mean(0)
    return {
        "nll": functional.nll_loss(predictive.log(), targets).item(),
        "accuracy": (predictive.argmax(-1) == targets).double().mean().item(),
        "ece": MulticlassCalibrationError(10, n_bins=15)(predictive, targets).item(),
        "brier": (predictive - functional.one_hot(targets, 10)).square().sum(-1).mean().item(),
    }


def doubled(data: rc.data.DataSplits) -> rc.data.DataSplits:
    """Convert data to float64: in float32, equal runs differ within 100 epochs because of rounding."""

    def cast(part: rc.data.Examples) -> rc.data.Examples:
        return rc.data.Examples(part.inputs.double(), part.targets.double())

    return replace(data, train=cast(data.train), test=cast(data.test))


def heteroscedastic(outputs: Tensor) -> Independent:
    """Return the distribution of targets for the likelihood `heteroscedastic`."""
    mean, raw = outputs.chunk(2, dim=-1)
    return Independent(Normal(mean, 1e-3 + functional.softplus(raw)), 1)


def regression_scores_of(outputs: Tensor, targets: Tensor, unit: float) -> dict[str, float]:
    """Return RMSE and NLL of the predictive distribution, in the units of the targets."""
    members = outputs.movedim(0, 1)
    mixture = MixtureSameFamily(Categorical(torch.ones_like(members[..., 0])), heteroscedastic(members))
    error = (mixture.mean - targets).square().mean().sqrt().item()
    return {"rmse": unit * error, "nll": -mixture.log_prob(targets).mean().item() + math.log(unit)}


def compare(
    problem: Problem, method: str, inference: rc.Inference, likelihood: str
) -> tuple[rc.Posterior, Tensor, dict]:
    """Run a method and its reference; return posterior, reference outputs, run times and the weight difference."""
    start = time.time()
    train = problem.data.train.batches(problem.batch_size, shuffle_seed=problem.seed)
    generator = torch.Generator().manual_seed(problem.seed)
    fit = inference.fit(copy.deepcopy(problem.model), train, likelihood=likelihood, generator=generator)
    fitted = time.time()
    reference, outputs = networks_of(problem, method)
    seconds = {"seconds": round(fitted - start, 1), "reference_seconds": round(time.time() - fitted, 1)}
    return fit.posterior, outputs, seconds | {"max_difference": max_difference(fit.posterior, reference, method)}


def images(root: Path, output: Path, chosen: list[str]) -> None:
    """Compare the methods on Fashion-MNIST."""
    data = rc.build("dataset", name="fashion_mnist", root=root).load()
    epochs = {"map": 10, "deep_ensemble": 10, "snapshot_ensemble": 25, "mc_dropout": 15, "swag": 30}
    for method in chosen:
        model = rc.architectures.MLPArchitecture(hidden=[128, 128]).build(
            data.input_shape, 10, generator=torch.Generator().manual_seed(1)
        )
        problem = Problem(model, data, 128, 1, functional.cross_entropy, 1e-3, 0.1, 0.2, epochs)
        posterior, outputs, found = compare(problem, method, methods_of("every_method.yaml")[method], "categorical")
        line = {"set": "fashion_mnist", "method": method} | found
        write(
            output,
            line
            | {"rebasin_core": image_scores(posterior, model, data)}
            | {"reference": image_scores_of(outputs, data.test.targets)},
        )


def regressions(root: Path, output: Path, splits: int, chosen: list[str]) -> None:
    """Compare the methods on two UCI datasets."""
    torch.set_default_dtype(torch.float64)  # the dtype in which torch-uncertainty samples
    epochs = {"map": 200, "deep_ensemble": 200, "snapshot_ensemble": 250, "mc_dropout": 200, "swag": 300}
    for name in ("concrete", "energy"):
        for split in range(splits):
            data = doubled(rc.build("dataset", name="uci", dataset=name, root=root, split=split).load())
            for method in chosen:
                model = rc.architectures.MLPArchitecture(hidden=[50]).build(
                    data.input_shape, 2, generator=torch.Generator().manual_seed(split)
                )

                def loss(outputs: Tensor, targets: Tensor) -> Tensor:
                    return -heteroscedastic(outputs).log_prob(targets).mean()

                problem = Problem(model, data, 32, split, loss, 0.01, 1.0, 0.05, epochs, decays=True)
                posterior, outputs, found = compare(
                    problem, method, methods_of("uci_posteriors.yaml")[method], "heteroscedastic"
                )
                line = (
                    {"set": name, "split": split, "method": method}
                    | found
                    | {"rebasin_core": regression_scores(posterior, model, data)}
                )
                write(
                    output, line | {"reference": regression_scores_of(outputs, data.test.targets, data.target.scale[0])}
                )


def main() -> None:
    """Write one JSON line per dataset, method and split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=3)
    every = ["map", "swag", "snapshot_ensemble", "mc_dropout", "deep_ensemble"]
    parser.add_argument("--only", nargs="+", default=every, choices=every)
    arguments = parser.parse_args()
    images(arguments.root, arguments.output, arguments.only)
    regressions(arguments.root, arguments.output, arguments.splits, arguments.only)


if __name__ == "__main__":
    main()
