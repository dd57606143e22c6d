"""Hamiltonian Monte Carlo on UCI data as the reference for SGHMC and deep ensembles.

    python docs/results/hamiltonian.py DATA

DATA is a folder with UCI datasets, in the format of `rebasin_core.data.UCISource`.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path
from statistics import mean, stdev
from time import monotonic
from typing import cast

import torch

import rebasin_core as rc
from rebasin_core.analysis import diagnose_chains
from rebasin_core.data import UCISource
from rebasin_core.evaluation import FunctionalModel
from rebasin_core.evaluation.likelihoods import GaussianLikelihood
from rebasin_core.inference import HMC, NUTS, SGHMC, DeepEnsemble, FitResult, Inference, OptimizerSpec
from rebasin_core.posteriors import SamplesPosterior

WIDTH, CHAINS, SEEDS = 50, 4, (0, 1, 2)
NOISE = GaussianLikelihood(scale=0.3)
METHODS: dict[str, Inference] = {
    "hmc": HMC(chains=CHAINS, warmup=300, draws=200),
    "nuts": NUTS(chains=CHAINS, warmup=300, draws=200),
    "nuts, warm start": NUTS(chains=CHAINS, warmup=300, draws=200, warm_start=True),
    "sghmc": SGHMC(epochs=12_000, burn_in=2_000, thinning=50, learning_rate=0.01, momentum_decay=0.1, chains=CHAINS),
    "deep_ensemble": DeepEnsemble(members=20, epochs=2_000, optimizer=OptimizerSpec(lr=0.01)),
}
COLUMNS = (
    "test log-likelihood",
    "R-hat, weights",
    "aligned",
    "outputs",
    "ESS, outputs",
    "E-BFMI, smallest",
    "acceptance",
    "divergences",
    "gradients of a chain",
    "seconds",
)


def main() -> None:
    """Print a table: means over seeds, with standard deviations in parentheses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--dataset", default="yacht")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", rc.errors.SamplerWarning)  # the table has the statistics
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in METHODS}
    for seed in arguments.seeds:
        for name, method in METHODS.items():
            rows[name].append(measured(method, arguments.dataset, arguments.data, seed))
            print(seed, name, [round(value, 3) for value in rows[name][-1]], flush=True)
    print(f"\n| method | {' | '.join(COLUMNS)} |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for name, runs in rows.items():
        print(f"| `{name}` | {' | '.join(summary([run[k] for run in runs]) for k in range(len(COLUMNS)))} |")


def summary(values: list[float]) -> str:
    """Return mean and standard deviation; empty if they are unknown."""
    if math.isnan(values[0]):
        return ""
    digits = 0 if mean(values) > 50 else 2
    return f"{mean(values):.{digits}f} ({stdev(values):.{digits}f})" if len(values) > 1 else f"{values[0]:.{digits}f}"


def measured(method: Inference, dataset: str, root: Path, seed: int) -> tuple[float, ...]:
    """Fit a posterior, and return the values of the columns."""
    data = UCISource(dataset=dataset, root=root).load()
    batch = data.train.inputs, data.train.targets
    architecture = rc.architectures.MLPArchitecture(hidden=(WIDTH,), activation="tanh")
    model = architecture.build(data.input_shape, 1, generator=torch.Generator().manual_seed(seed))
    start = monotonic()
    fit = method.fit(model, [batch], likelihood=NOISE, generator=torch.Generator().manual_seed(100 + seed))
    seconds = monotonic() - start
    samples = cast("SamplesPosterior", fit.posterior)
    function = FunctionalModel(model)
    outputs = torch.stack([function(draw.mean, data.test.inputs) for draw in samples.components])
    logs = torch.stack([NOISE.log_prob(each, data.test.targets) for each in outputs])
    score = (logs.logsumexp(0) - math.log(len(logs))).mean().item()
    convergence = diagnosed(samples, outputs, rc.trace_spec(model, batch[0][:2]))
    return score, *convergence, *sampled(fit), seconds


def diagnosed(samples: SamplesPosterior, outputs: torch.Tensor, spec: rc.PermutationSpec) -> tuple[float, ...]:
    """Return median R-hat of weights as sampled, aligned, and of outputs, with the effective sample size of these."""
    if len(samples.chains.unique()) == 1:
        return (math.nan,) * 4
    aligned = rc.align_samples(samples, spec, matcher="weight", symmetry="full", reference=0).samples
    of_outputs = diagnose_chains(SamplesPosterior({"outputs": outputs}, chains=samples.chains))
    rhats = [diagnose_chains(each).quantiles()[1] for each in (samples, aligned)]
    return *rhats, of_outputs.quantiles()[1], of_outputs.quantiles("ess")[1]


def sampled(fit: FitResult) -> tuple[float, float, float, float]:
    """Return the smallest E-BFMI, mean acceptance, divergences, and gradients of a chain."""
    statistics = fit.sampler
    if statistics is None:
        return math.nan, math.nan, math.nan, float(len(fit.history))
    divergences = float(sum(statistics.divergences))
    return min(statistics.energy_bfmi), mean(statistics.acceptance), divergences, statistics.gradients / CHAINS


if __name__ == "__main__":
    main()
