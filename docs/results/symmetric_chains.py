"""Convergence of chains of tanh networks on UCI data: weights as sampled and modulo symmetries, and outputs.

    python docs/results/symmetric_chains.py DATA

DATA is a folder with UCI datasets, in the format of `rebasin_core.data.UCISource`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import mean, stdev

import torch

import rebasin_core as rc
from rebasin_core.analysis import canonical_form, chain_distances, count_modes, diagnose_chains
from rebasin_core.data import UCISource
from rebasin_core.evaluation import FunctionalModel
from rebasin_core.evaluation.likelihoods import GaussianLikelihood
from rebasin_core.posteriors import SamplesPosterior

DATASETS, WIDTH, SEEDS, CHAINS = ("yacht", "energy"), 5, (0, 1, 2), 8
SAMPLER = rc.inference.SGHMC(
    epochs=12_000, burn_in=2_000, thinning=200, learning_rate=0.01, momentum_decay=0.1, chains=CHAINS
)


def main() -> None:
    """Print one table per dataset: means over seeds, with standard deviations in parentheses."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--datasets", nargs="*", default=DATASETS)
    arguments = parser.parse_args()
    for dataset in arguments.datasets:
        runs = [measured(dataset, arguments.data, seed) for seed in SEEDS]
        print(f"\n{dataset}\n\n| quantity | R-hat, median | R-hat, 95 % | ESS, median | between / within | p |")
        print("|---|---|---|---|---|---|")
        for row in runs[0]:
            columns = [summary([run[row][k] for run in runs]) for k in range(4)]
            p_values = ", ".join(f"{run[row][4]:.3f}" for run in runs)
            print(f"| {row} | {' | '.join(columns)} | {p_values} |", flush=True)


def summary(values: list[float]) -> str:
    """Return mean and standard deviation."""
    return f"{mean(values):.2f} ({stdev(values):.2f})"


def measured(dataset: str, root: Path, seed: int) -> dict[str, tuple[float, ...]]:
    """Sample chains, and return the diagnostics of weights and outputs."""
    data = UCISource(dataset=dataset, root=root).load()
    inputs, targets = data.train.inputs, data.train.targets
    architecture = rc.architectures.MLPArchitecture(hidden=(WIDTH,), activation="tanh")
    model = architecture.build(data.input_shape, 1, generator=torch.Generator().manual_seed(seed))
    spec = rc.trace_spec(model, inputs[:2])
    chains = SAMPLER.fit(
        model,
        [(inputs, targets)],
        likelihood=GaussianLikelihood(scale=0.3),
        generator=torch.Generator().manual_seed(100 + seed),
    ).posterior
    function = FunctionalModel(model)
    outputs = torch.stack([function(draw.mean, data.test.inputs) for draw in chains.components])
    error = (outputs.mean(0) - data.test.targets).square().mean().sqrt().item()
    copies = round(10 ** count_modes(spec).log10_total)
    print(f"{dataset}, seed {seed}: {len(inputs)} examples, test RMSE {error:.3f}, {copies} copies", flush=True)
    forms: dict[str, SamplesPosterior] = {"as sampled": chains}
    for option in ("permutation", "full"):
        forms[f"aligned, {option}"] = rc.align_samples(
            chains, spec, matcher="weight", symmetry=option, reference=0
        ).samples
    for option, symmetry in (("permutation", ()), ("full", spec.symmetry)):
        draws = [canonical_form(draw.mean, spec, symmetry).tensors for draw in chains.components]
        stacked = {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}
        forms[f"canonical, {option}"] = SamplesPosterior(stacked, chains=chains.chains)
    forms["outputs"] = SamplesPosterior({"outputs": outputs}, chains=chains.chains)
    return {label: diagnosed(samples) for label, samples in forms.items()}


def diagnosed(samples: SamplesPosterior) -> tuple[float, ...]:
    """Return R-hat, effective sample size, the ratio of distances, and the p-value of two halves of the chains."""
    found = diagnose_chains(samples)
    _, median, high = found.quantiles()
    distances = chain_distances(samples)
    is_between = ~torch.eye(CHAINS, dtype=torch.bool)
    ratio = math.sqrt(distances[is_between].square().mean() / distances.diagonal().square().mean())
    halves = [halved(samples, first=first) for first in (True, False)]
    p_value = rc.discrepancy(*halves).p_value
    return median, high, found.quantiles("ess")[1], ratio, p_value


def halved(samples: SamplesPosterior, *, first: bool) -> SamplesPosterior:
    """Return the first or the second half of the chains."""
    kept = (samples.chains < CHAINS // 2) == first
    return SamplesPosterior({name: t[kept] for name, t in samples.samples.items()}, chains=samples.chains[kept])


if __name__ == "__main__":
    main()
