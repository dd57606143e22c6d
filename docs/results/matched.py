"""Compare barriers of single networks, posteriors and chains with equal regularization, on scikit-learn's digits.

    python docs/results/matched.py --output matched.jsonl     # about 5 minutes
    python docs/results/matched.py --output matched.jsonl --table

Every method is trained from four seeds. For all six pairs, three barriers are estimated: marginalized, before and after
alignment by `wasserstein`, and between the means of the aligned posteriors. The table has the means over the pairs,
with delete-one-network jackknife standard errors.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path

import torch

import rebasin_core as rc

HIDDEN = [64, 64]
SCALE = 0.1
SEEDS = range(1, 5)


def methods() -> dict[str, rc.Inference]:
    """Return the methods, by label."""
    adam = rc.inference.OptimizerSpec(name="Adam", lr=0.01)
    schedule = rc.inference.ScheduleSpec(name="CosineAnnealingLR", T_max=150)
    gradient = {"epochs": 150, "optimizer": adam, "schedule": schedule}
    chain = {"epochs": 600, "burn_in": 300, "thinning": 15, "learning_rate": 0.01, "prior_scale": SCALE}
    bayes = rc.inference.MeanFieldVI(prior_scale=SCALE, **gradient)
    tempered = bayes.model_copy(update={"kl_weight": 0.1})
    return {
        "mean field": bayes,
        "mean field, KL weight 0.1 (tempered)": tempered,
        "mean field, temperature 0.1 (cold)": bayes.model_copy(update={"temperature": 0.1}),
        "MAP, regularized as mean field": bayes.as_map(),
        "MAP, regularized as KL weight 0.1": tempered.as_map(),
        "SGHMC": rc.inference.SGHMC(**chain),
        "SGHMC, temperature 0.01": rc.inference.SGHMC(**chain, temperature=0.01),
    }


def mean_of(posterior: rc.Posterior) -> rc.posteriors.PointPosterior:
    """Return the mean of a posterior as a single network."""
    return rc.posteriors.PointPosterior(posterior.mean, buffers=posterior.buffers)


def between_halves(posterior: rc.Posterior, task: rc.Task) -> float | None:
    """Return the barrier between the first and the second half of a chain; None for other posteriors."""
    if not isinstance(posterior, rc.posteriors.SamplesPosterior):
        return None
    half = posterior.num_samples // 2
    parts = [
        rc.posteriors.SamplesPosterior({name: tensor[rows] for name, tensor in posterior.samples.items()})
        for rows in (slice(half), slice(half, None))
    ]
    return rc.barrier(*parts, task).height


def measure(label: str, method: rc.Inference, output: Path) -> None:
    """Train the posteriors of a method, and estimate the barriers of all pairs."""
    data = rc.build("dataset", name="digits").load()
    architecture = rc.architectures.MLPArchitecture(hidden=HIDDEN)
    posteriors = {}
    for seed in SEEDS:
        model = architecture.build(data.input_shape, 10, generator=torch.Generator().manual_seed(seed))
        generator = torch.Generator().manual_seed(seed + 2**32)
        batches = data.train.batches(128, shuffle_seed=seed)
        posteriors[seed] = method.fit(model, batches, generator=generator, progress=True, label=label).posterior
    spec = architecture.spec(model)
    task = rc.Task(model, data.test.batches(500))
    halves = {seed: between_halves(posterior, task) for seed, posterior in posteriors.items()}
    for first, second in combinations(SEEDS, 2):
        reference, candidate = posteriors[first], posteriors[second]
        aligned = rc.match(reference, candidate, spec, "wasserstein").apply(candidate)
        after = rc.barrier(reference, aligned, task)
        record = {
            "method": label,
            "pair": [first, second],
            "unaligned": rc.barrier(reference, candidate, task).height,
            "aligned": after.height,
            "means": rc.barrier(mean_of(reference), mean_of(aligned), task).height,
            "endpoint_losses": [after.loss[0], after.loss[-1]],
            "accuracy": [after.score[0], after.score[-1]],
            "halves": halves[first],
        }
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def table(output: Path) -> None:
    """Print the table of a file of records."""
    records = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    headers = (
        "method",
        "unaligned barrier (nats)",
        "aligned barrier (nats)",
        "barrier of the aligned means (nats)",
        "barrier between halves of a chain (nats)",
        "endpoint loss (nats)",
        "accuracy (%)",
    )
    print(f"| {' | '.join(headers)} |\n|{'---|' * len(headers)}")
    for label in dict.fromkeys(record["method"] for record in records):
        rows = [record for record in records if record["method"] == label]
        cells = []
        for column in ("unaligned", "aligned", "means"):
            found = rc.analysis.mean_over_pairs({tuple(r["pair"]): r[column] for r in rows})
            cells.append(f"{found.mean:.4f} ± {found.stderr:.4f}")
        halves = [f"{v:.3f}" for v in {r["pair"][0]: r["halves"] for r in rows}.values() if v is not None]
        losses = [value for r in rows for value in r["endpoint_losses"]]
        scores = [value for r in rows for value in r["accuracy"]]
        cells += [", ".join(halves), f"{sum(losses) / len(losses):.3f}", f"{100 * sum(scores) / len(scores):.1f}"]
        print(f"| {label} | {' | '.join(cells)} |")


def main() -> None:
    """Run the methods that the output file lacks, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("matched.jsonl"))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        table(arguments.output)
        return
    lines = arguments.output.read_text(encoding="utf-8").splitlines() if arguments.output.exists() else []
    finished = {json.loads(line)["method"] for line in lines}
    for label, method in methods().items():
        if label not in finished:
            measure(label, method, arguments.output)


if __name__ == "__main__":
    main()
