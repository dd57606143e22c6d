"""Accuracy at t = 0.5 and barrier of every matcher on every pair of published checkpoints.

    python docs/results/methods.py --checkpoints FOLDER --data DATA --output methods.jsonl [--pairs NAME ...]
    python docs/results/methods.py --output methods.jsonl --table

Run it again to resume. The required files are listed in `pairs.py`. The test data are all test images of MNIST, the
first 1,000 of CIFAR-10, and all inputs for the two networks on groups. Matchers that need data get the first 2,000
training images, or a tenth of all inputs for the networks on groups.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from pairs import FILES, Pair, load
from tabulate import tabulate

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError

WEIGHT = rc.matchers.WeightMatcher(start="greedy")
METHODS: dict[str, rc.Matcher | None] = {
    "unaligned": None,
    "weight": WEIGHT,
    "weight, from the identity": rc.matchers.WeightMatcher(start="identity"),
    "frank_wolfe": rc.matchers.FrankWolfeMatcher(),
    "restarts of weight, 5": rc.matchers.RestartsMatcher(matcher=WEIGHT, restarts=5),
    "transport, weights": rc.matchers.TransportMatcher(),
    "activation": rc.matchers.ActivationMatcher(),
    "gradient": rc.matchers.GradientMatcher(),
    "transport, activations": rc.matchers.TransportMatcher(cost="activations"),
    "activation, then weight": rc.matchers.ChainMatcher(matchers=[rc.matchers.ActivationMatcher(), WEIGHT]),
    "sinkhorn, weights": rc.matchers.SinkhornMatcher(loss="weights"),
    "activation, then sinkhorn": rc.matchers.ChainMatcher(
        matchers=[rc.matchers.ActivationMatcher(), rc.matchers.SinkhornMatcher()]
    ),
    "sinkhorn, midpoint": rc.matchers.SinkhornMatcher(loss="midpoint", epochs=10),
    "straight_through": rc.matchers.StraightThroughMatcher(epochs=5),
    "annealing, 500 steps": rc.matchers.AnnealingMatcher(steps=500),
    "portfolio by loss": rc.matchers.PortfolioMatcher(
        matchers=[WEIGHT, rc.matchers.ActivationMatcher(), rc.matchers.GradientMatcher()], select="loss"
    ),
}
RESET = "cifar10-resnet20"


def measure(pair: Pair, name: str, method: str) -> dict[str, float]:
    """Return run time, accuracy at t = 0.5 and barrier of one method on one pair."""
    matcher = METHODS[method]
    first, second = pair.networks
    start = time.perf_counter()
    # Annealing evaluates all its data in every step, and gets only 500 examples.
    train = list((pair.train.first(500) if method.startswith("annealing") else pair.train).batches(250))
    if matcher is not None:
        result = rc.match(first, second, pair.spec, matcher, task=rc.Task(pair.model, train))
        second = result.apply(second)
    seconds = time.perf_counter() - start
    test = list((pair.test.first(1000) if name == RESET else pair.test).batches(500))
    curve = rc.barrier(first, second, rc.Task(pair.model, test), num_points=7)
    found = {"seconds": seconds, "accuracy": curve.score[3], "barrier": curve.height, "error": curve.height_data_stderr}
    if name == RESET:
        estimator = {"name": "reset", "estimator": {"name": "pointwise", "num_points": 3}}
        statistics = pair.train.first(1000).batches(250)
        again = rc.barrier(first, second, rc.Task(pair.model, test, calibration=statistics), estimator=estimator)
        found |= {"reset accuracy": again.score[1], "reset barrier": again.height}
    return found


def table(lines: list[dict[str, float | str]]) -> str:
    """Return the table of all lines."""
    names = [name for name in FILES if any(line["pair"] == name for line in lines)]
    rows = []
    for method in METHODS:
        row = [method]
        for name in names:
            found = next((line for line in lines if line["pair"] == name and line["method"] == method), None)
            if found is None or "reason" in found:
                row.append("")
                continue
            cell = f"{100 * float(found['accuracy']):.1f} %, {float(found['barrier']):.3f}"
            if name == RESET:
                cell += f"; reset {100 * float(found['reset accuracy']):.1f} %, {float(found['reset barrier']):.3f}"
            row.append(f"{cell} ({float(found['seconds']):.1f} s)")
        rows.append(row)
    return tabulate(rows, headers=["", *names], tablefmt="github")


def main() -> None:
    """Write one JSON line per pair and method, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--pairs", nargs="+", default=list(FILES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        torch.set_num_threads(1)
        lines = arguments.output.read_text(encoding="utf-8").splitlines() if arguments.output.exists() else []
        done = {(line["pair"], line["method"]) for line in map(json.loads, lines)}
        for name in arguments.pairs:
            pair = load(name, arguments.checkpoints, arguments.data)
            for method in arguments.methods:
                if (name, method) in done:
                    continue
                try:
                    line = {"pair": name, "method": method, **measure(pair, name, method)}
                except InvalidInputError as error:  # for example, no layer has activations to match
                    line = {"pair": name, "method": method, "reason": str(error)}
                print(line, flush=True)
                with arguments.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
    text = arguments.output.read_text(encoding="utf-8")
    print(table([json.loads(line) for line in text.splitlines()]))


if __name__ == "__main__":
    main()
