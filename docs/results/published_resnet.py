"""Two published ResNet-20s of CIFAR-10 with batch normalisation: the line between them, aligned, and repaired.

    python docs/results/published_resnet.py --checkpoints FOLDER --data DATA [--matchers NAME ...]

`pairs.py` says which files are needed.
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
    found = [rc.score(end, rc.Task(pair.model, test)) for end in pair.ends]
    print(*(f"{100 * end.values['accuracy']:.2f} %, {end.nll:.3f} nats" for end in found), sep="; ", flush=True)
    chord = (found[0].nll + found[1].nll) / 2
    rows = []
    for name in arguments.matchers:
        matcher = None if name == "unaligned" else name
        for repair in (None, "reset", "repair"):
            start = time.time()
            merged = rc.merge(
                pair.ends, pair.spec, task=rc.Task(pair.model, calibration), matcher=matcher, repair=repair
            )
            seconds = time.time() - start
            middle = rc.score(merged.posterior, rc.Task(pair.model, test))
            accuracy, height = f"{100 * middle.values['accuracy']:.2f} %", f"{middle.nll - chord:.3f}"
            rows.append([name, repair or "-", accuracy, height, f"{seconds:.0f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    print(
        tabulate(rows, ["alignment", "statistics", "midpoint", "above the ends (nats)", "seconds"], tablefmt="github")
    )


if __name__ == "__main__":
    main()
