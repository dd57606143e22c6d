"""Wrong specifications that `check_spec` passes, of many random ones, and right ones that it refuses.

    python -m tests.benchmarks.wrong_tables [TABLES_PER_NETWORK [FIRST_LETTERS_OF_A_NETWORK]]

Networks are traced; their right layouts are checked with several seeds. Of each, random wrong layouts are made, with
one tensor or one group at fault, and checked. A layout counts as wrong if an oracle sees the function change.
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
    """Print a table with a row for each network, and the sums."""
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 12
    start_of_name = sys.argv[2] if len(sys.argv) > 2 else ""
    Adviser.advice = lambda *_: []  # type: ignore[method-assign]  # what is at fault is not asked here, and takes long
    rows: list[list[object]] = []
    for name, (make, shape) in NETWORKS.items():
        if not name.startswith(start_of_name):
            continue
        torch.manual_seed(0)
        model, inputs = make(), inputs_of(shape)
        spec = rc.trace_spec(model, inputs)
        start = time.perf_counter()
        refused = sum(
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
            name, counts["wrong"], counts["passed"], counts["kept"], counts["not wrong"], refused, f"{seconds:.2f}",
        ])  # fmt: skip
        print(rows[-1], flush=True)
    sums = [sum(int(str(row[column])) for row in rows) for column in range(1, 6)]
    headers = ["network", "wrong", "passed", "kept", "not wrong", "right refused (of 5)", "seconds"]
    print(tabulate([*rows, ["all", *sums, ""]], headers, tablefmt="github"))


if __name__ == "__main__":
    main()
