"""Count random wrong specifications that `check_spec` passes, and correct ones that it fails.

    python -m tests.benchmarks.wrong_tables [TABLES_PER_NETWORK [PREFIX_OF_NETWORK]]

Networks are traced, and their correct layouts are checked with several seeds. Random wrong layouts, each with one wrong
tensor or group, are derived from them and checked. A layout counts as wrong if an oracle detects a change of the
function.
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import torch
from tabulate import tabulate

import rebasin_core as rc
from rebasin_core.specs.checking.advice import Adviser
from tests.specs.checking.networks import NETWORKS, inputs_of
from tests.specs.checking.wrong_tables import truly_changes, wrong_tables


def main() -> None:
    """Print a table with a row for each network, and the totals."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    prefix = sys.argv[2] if len(sys.argv) > 2 else ""
    Adviser.advice = lambda *_: []  # type: ignore[method-assign]  # suggestions are not needed, and slow
    rows: list[list[object]] = []
    for name, (make, shape) in NETWORKS.items():
        if not name.startswith(prefix):
            continue
        torch.manual_seed(0)
        model, inputs = make(), inputs_of(shape)
        spec = rc.trace_spec(model, inputs)
        start = time.perf_counter()
        failed = sum(
            not rc.check_spec(spec, model, inputs, generator=torch.Generator().manual_seed(seed)).passed
            for seed in range(5)
        )
        seconds = (time.perf_counter() - start) / 5
        counts: Counter[str] = Counter()
        for table in wrong_tables(spec.layout, seed=0):
            if counts["wrong"] == wanted:
                break
            if not truly_changes(model, inputs, spec.layout, table.layout):
                counts["not wrong"] += 1
                continue
            found = rc.check_spec(table.spec, model, inputs)
            counts["wrong"] += 1
            counts["passed"] += found.passed
            counts["kept"] += found.kept
            if found.passed:
                print(f"PASSED {name}: {table.kind}, {table.where}\n{found}", flush=True)
        rows.append([
            name, counts["wrong"], counts["passed"], counts["kept"], counts["not wrong"], failed, f"{seconds:.2f}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    sums = [sum(int(str(row[column])) for row in rows) for column in range(1, 6)]
    headers = ["network", "wrong", "passed", "kept", "not wrong", "correct table failed (of 5)", "seconds"]
    print(tabulate([*rows, ["all", *sums, ""]], headers, tablefmt="github"))


if __name__ == "__main__":
    main()
