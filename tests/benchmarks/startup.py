"""Time until the command prints its help, and until the package is imported, compared with `import torch`.

    python tests/benchmarks/startup.py [--repeats 5]

Each number is the minimum over new processes, interleaved. Files are in the cache of the system after the first ones.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tabulate import tabulate

COMMAND = "import sys\nfrom rebasin_core.cli import main\nsys.argv[0] = 'rebasin'\nmain()"
COMPLETION = {"_REBASIN_COMPLETE": "bash_complete", "COMP_WORDS": "rebasin al", "COMP_CWORD": "1"}
# For each case: code, arguments and environment variables.
CASES: dict[str, tuple[str, list[str], dict[str, str]]] = {
    "python -c pass": ("pass", [], {}),
    "import torch": ("import torch", [], {}),
    "rebasin --help": (COMMAND, ["--help"], {}),
    "rebasin --version": (COMMAND, ["--version"], {}),
    "rebasin align --help": (COMMAND, ["align", "--help"], {}),
    "rebasin store gc --help": (COMMAND, ["store", "gc", "--help"], {}),
    "completion of `rebasin al`": (COMMAND, [], COMPLETION),
    "import rebasin_core": ("import rebasin_core", [], {}),
    "from rebasin_core import align": ("from rebasin_core import align", [], {}),
    "from rebasin_core import *": ("from rebasin_core import *", [], {}),
}


def seconds(code: str, arguments: list[str], variables: dict[str, str]) -> float:
    """Return the time of one process."""
    command = [sys.executable, "-c", code, *arguments]
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, **variables}, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    """Print a table of seconds, and of ratios to `import torch`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    rounds = [{name: seconds(*case) for name, case in CASES.items()} for _ in range(repeats)]
    best = {name: min(found[name] for found in rounds) for name in CASES}
    rows = [(name, value, value / best["import torch"]) for name, value in best.items()]
    print(tabulate(rows, headers=["", "seconds", "of import torch"], floatfmt=("", ".2f", ".2f")))


if __name__ == "__main__":
    main()
