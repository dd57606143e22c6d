"""R-hat of chains from different seeds, before and after alignment, and the figure of it.

    python docs/results/chains.py --posteriors FOLDER --root DATA --figure docs/results/chains.svg

``FOLDER`` holds the SGHMC posteriors that ``posteriors.py --data mnist --only sghmc`` wrote.
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
    """Print the figures and draw the picture."""
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
    outputs = functions(chains, FunctionalModel(model), data.test.inputs[:500])
    found["functions"] = rc.analysis.diagnose_chains(rc.posteriors.SamplesPosterior(outputs, chains=chains.chains))
    print("mean squared distances", aligned.mean_squared_distances)
    moves = [
        rc.analysis.count_transpositions(p.compose(q.inverse()))
        for p, q in zip(aligned.permutations, aligned.permutations[1:], strict=False)
    ]
    same = [bool(a == b) for a, b in zip(chains.chains, chains.chains[1:], strict=False)]
    print("transpositions within chains", [m for m, s in zip(moves, same, strict=True) if s])
    print("transpositions between chains", [m for m, s in zip(moves, same, strict=True) if not s])
    for label, diagnostics in found.items():
        print(label, "R-hat", diagnostics.quantiles(), "ESS", diagnostics.quantiles("ess"))
    draw(found, arguments.figure)


def functions(
    chains: rc.posteriors.SamplesPosterior, model: FunctionalModel, inputs: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The networks' log probabilities on test inputs, as if they were parameters."""
    rows = [model(chains.member(k).mean, inputs).log_softmax(-1) for k in range(chains.num_samples)]
    return {"log_prob": torch.stack(rows).detach()}


def draw(found: dict[str, rc.analysis.ChainDiagnostics], path: Path) -> None:
    """Draw the share of entries whose R-hat is below a value."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    labels = {"as sampled": "weights as sampled", "aligned": "weights, aligned", "functions": "outputs"}
    for (key, diagnostics), color, style in zip(
        found.items(), ("#D55E00", "#0072B2", "#555555"), ("-", "-", "--"), strict=True
    ):
        flat = torch.cat([t.flatten() for t in diagnostics.rhat.values()])
        ordered = flat[flat.isfinite()].sort().values
        axes.plot(ordered, torch.linspace(0, 1, len(ordered)), style, color=color, label=labels[key])
    axes.axvline(1.01, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel=r"$\hat R$", ylabel="share of entries below", xlim=(0.95, None), ylim=(0, 1))
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path)


if __name__ == "__main__":
    main()
