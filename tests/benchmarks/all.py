"""Run the benchmarks of the page *Performance*, in less than an hour.

    python tests/benchmarks/all.py FOLDER [--only NAME ...]

Writes the output of each to FOLDER/NAME.txt. The machine should be idle. Benchmarks that need data, other libraries or
a GPU are not included; the pages of the results name their commands.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

HERE = Path(__file__).parent

# Arguments of each benchmark.
BENCHMARKS = {
    "assignment": ["256", "512", "1024", "2048"],
    "barrier_error": [],
    "ensembles": [],
    "evaluation": [],
    "growth": [],
    "many": [],
    "maps": [],
    "matching": [],
    "tracing": [],
}


def main() -> None:
    """Run the benchmarks; exit with 1 if one fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=list(BENCHMARKS), default=list(BENCHMARKS), metavar="NAME")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in options.only:
        start = perf_counter()
        with (options.folder / f"{name}.txt").open("w", encoding="utf-8") as output:
            command = [sys.executable, "-W", "ignore", str(HERE / f"{name}.py"), *BENCHMARKS[name]]
            done = subprocess.run(
                command,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        print(f"{name}: {(perf_counter() - start) / 60:.1f} min, exit code {done.returncode}", flush=True)
        failed += [name] if done.returncode else []
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
