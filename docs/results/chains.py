"""Compute and plot R-hat of chains from different seeds, before and after alignment.

    rebasin study docs/results/every_method.yaml --only "data=mnist, variant=sghmc" --store STORE
    python docs/results/chains.py --store STORE --figure docs/results/chains.svg

The SGHMC posteriors on MNIST are read from the store of the study.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt

import rebasin_core as rc
from rebasin_core.evaluation import FunctionalModel
from rebasin_core.studies.results import read_posteriors

mpl.use("Agg")

STUDY = Path(__file__).with_name("every_method.yaml")


def main() -> None:
    """Print the diagnostics, and plot R-hat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True)
    parser.add_argument("--figure", type=Path, required=True)
    arguments = parser.parse_args()
    study = rc.Study(rc.load_study(STUDY), arguments.store, only=["data=mnist, variant=sghmc"])
    config = study.plan.cells[0][0].config
    data = config.data.load()
    model = config.architecture.build(data.input_shape, 10)
    spec = config.architecture.spec(model)
    parts = [found.posterior for found in read_posteriors(study)]
    chains = rc.posteriors.SamplesPosterior(
        {name: torch.cat([q.samples[name] for q in parts]) for name in parts[0].mean},
        chains=torch.cat([parts[0].chains, parts[1].chains + 2]),
    )
    aligned = rc.align_samples(chains, spec)
    found = {"as sampled": rc.analysis.diagnose_chains(chains), "aligned": rc.analysis.diagnose_chains(aligned.samples)}
    outputs = log_probabilities(chains, FunctionalModel(model), data.test.inputs[:500])
    found["outputs"] = rc.analysis.diagnose_chains(rc.posteriors.SamplesPosterior(outputs, chains=chains.chains))
    print("mean squared distances", aligned.mean_squared_distances)
    transpositions = [
        rc.analysis.count_transpositions(p.compose(q.inverse()))
        for p, q in zip(aligned.permutations, aligned.permutations[1:], strict=False)
    ]
    same = [bool(a == b) for a, b in zip(chains.chains, chains.chains[1:], strict=False)]
    print("transpositions within chains", [n for n, s in zip(transpositions, same, strict=True) if s])
    print("transpositions between chains", [n for n, s in zip(transpositions, same, strict=True) if not s])
    for label, diagnostics in found.items():
        print(label, "R-hat", diagnostics.quantiles(), "ESS", diagnostics.quantiles("ess"))
    draw(found, arguments.figure)


def log_probabilities(
    chains: rc.posteriors.SamplesPosterior, model: FunctionalModel, inputs: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the log probabilities of all draws on test inputs, in the format of samples of a parameter."""
    rows = [model(chains.member(k).mean, inputs).log_softmax(-1) for k in range(chains.num_samples)]
    return {"log_prob": torch.stack(rows).detach()}


def draw(found: dict[str, rc.analysis.ChainDiagnostics], path: Path) -> None:
    """Plot the cumulative distribution of R-hat over entries."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    labels = {"as sampled": "weights as sampled", "aligned": "weights, aligned", "outputs": "outputs"}
    for (key, diagnostics), color, style in zip(
        found.items(), ("#D55E00", "#0072B2", "#555555"), ("-", "-", "--"), strict=True
    ):
        flat = torch.cat([t.flatten() for t in diagnostics.rhat.values()])
        ordered = flat[flat.isfinite()].sort().values
        axes.plot(ordered, torch.linspace(0, 1, len(ordered)), style, color=color, label=labels[key])
    axes.axvline(1.01, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=r"$\hat R$", ylabel="fraction of entries below", xlim=(0.95, None), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
