"""Align, average and repair two published ResNet-20s of CIFAR-10 with batch normalization.

    python docs/results/published_resnet.py --checkpoints FOLDER --data DATA [--matchers NAME ...]

`pairs.py` describes the required files.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from pairs import load
from tabulate import tabulate

import rebasin_core as rc


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--matchers", nargs="*", default=["unaligned", "weight", "activation"])
    arguments = parser.parse_args()
    pair = load("cifar10-resnet20", arguments.checkpoints, arguments.data)
    calibration, test = list(pair.train.first(1000).batches(500)), list(pair.test.batches(500))
    scores = [rc.score(network, rc.Task(pair.model, test)) for network in pair.networks]
    print(*(f"{100 * s.values['accuracy']:.2f} %, {s.nll:.3f} nats" for s in scores), sep="; ", flush=True)
    baseline = (scores[0].nll + scores[1].nll) / 2
    rows = []
    for name in arguments.matchers:
        matcher = None if name == "unaligned" else name
        for repair in (None, "reset", "repair"):
            start = time.time()
            merged = rc.merge(
                pair.networks, pair.spec, task=rc.Task(pair.model, calibration), matcher=matcher, repair=repair
            )
            seconds = time.time() - start
            midpoint = rc.score(merged.posterior, rc.Task(pair.model, test))
            measured = [f"{100 * midpoint.values['accuracy']:.2f} %", f"{midpoint.nll - baseline:.3f}"]
            rows.append([name, repair or "-", *measured, f"{seconds:.0f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    headers = ["alignment", "statistics", "accuracy at t = 0.5", "excess loss (nats)", "time (s)"]
    print(tabulate(rows, headers, tablefmt="github"))


if __name__ == "__main__":
    main()
