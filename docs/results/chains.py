"""Compute and plot R-hat of chains from different seeds, before and after alignment.

    python docs/results/chains.py --posteriors FOLDER --root DATA --figure docs/results/chains.svg

``FOLDER`` contains the SGHMC posteriors of ``every_method.py --data mnist --only sghmc --posteriors FOLDER``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt

import rebasin_core as rc
from rebasin_core.evaluation import FunctionalModel

mpl.use("Agg")


def main() -> None:
    """Print the diagnostics, and plot R-hat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posteriors", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--figure", type=Path, required=True)
    arguments = parser.parse_args()
    data = rc.build("dataset", name="mnist", root=arguments.root).load()
    architecture = rc.architectures.MLPArchitecture(hidden=[128, 128])
    model = architecture.build(data.input_shape, 10)
    spec = architecture.spec(model)
    parts = [
        rc.posteriors.SamplesPosterior.load(arguments.posteriors / f"mnist-sghmc-{seed}.safetensors") for seed in (1, 2)
    ]
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
