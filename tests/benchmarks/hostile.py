"""Mutate files and command lines at random, and print the errors that are not errors of this package.

Run it with ``python -m tests.benchmarks.hostile [number of mutations] [seed]``; 2000 mutations of every kind take about
ten minutes.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from tests.hostile.commands import DOCUMENTED, commands, prepare, run_command
from tests.hostile.targets import TARGETS, Target


def of_files(target: Target, folder: Path) -> Callable[[int], str]:
    content = target.content(folder)

    def outcome(seed: int) -> str:
        return target.outcome(folder / target.name, target.mutated(content, random.Random(seed)))

    return outcome


def of_commands(folder: Path) -> Callable[[int], str]:
    def outcome(seed: int) -> str:
        with tempfile.TemporaryDirectory(dir=folder) as name:
            prepare(Path(name))
            words = commands(seed, Path(name))
            code, errors = run_command(words, Path(name))
        if code not in DOCUMENTED or "Traceback" in errors or (code and not errors.strip()):
            message = f"code {code} of {words}: {errors[-300:]}"
            raise AssertionError(message)
        return f"code {code}"

    return outcome


def report(name: str, outcome: Callable[[int], str], seeds: range) -> int:
    """Print the outcomes of all mutations; return the number of unexpected errors."""
    found: Counter[str] = Counter()
    unexpected: dict[str, int] = {}
    slowest = 0.0
    for seed in seeds:
        start = time.perf_counter()
        try:
            found[outcome(seed)] += 1
        except Exception as error:  # ruff: ignore[blind-except] - any other error is a fault of the package
            frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-3:]]
            unexpected.setdefault(f"{type(error).__name__}: {str(error)[:200]} {frames}", seed)
            found["UNEXPECTED"] += 1
        slowest = max(slowest, time.perf_counter() - start)
    print(f"{name:<22}{len(seeds):>7}  slowest {slowest:5.2f} s  {dict(found.most_common())}", flush=True)
    for text, seed in unexpected.items():
        print(f"    seed {seed}: {text}")
    return found["UNEXPECTED"]


def main(count: int = 2000, first: int = 0) -> None:
    torch.set_num_threads(1)
    seeds = range(first, first + count)
    unexpected = 0
    with tempfile.TemporaryDirectory() as name:
        for target in TARGETS:
            folder = Path(name) / target.name
            folder.mkdir()
            unexpected += report(target.name, of_files(target, folder), seeds)
        unexpected += report("command lines", of_commands(Path(name)), seeds)
    print(f"{unexpected} unexpected errors in {count * (len(TARGETS) + 1)} mutations")
    sys.exit(unexpected > 0)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
