"""Compare the speed of two commits, or of a commit and the working tree: ratios of CPU times, runs interleaved.

    python tests/benchmarks/compare.py BEFORE [AFTER] [--cases NAME ...] [--rounds 5]

Each case runs in fresh processes of the present Python, which import the package from a checkout of either commit; the
order alternates. Prints, for every case, the minimum of the CPU times in milliseconds and their ratio: above 1, AFTER
is faster. A case that fails with one of the commits is shown as missing. Ten minutes for all cases.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

ROOT = Path(__file__).resolve().parents[2]

# Code of each case: the setting before `RUN`, and the timed part after it.
CASES = {
    "match mlp-3x512": """
architecture = rc.architectures.MLPArchitecture(hidden=[512, 512, 512])
first, second, spec = networks(architecture, (784,))
# RUN
rc.match(first, second, spec, "weight")
""",
    "match resnet20-x1": """
first, second, spec = networks(rc.architectures.CifarResNetArchitecture(depth=20), (3, 32, 32))
# RUN
rc.match(first, second, spec, "weight")
""",
    "match resnet20-x4": """
first, second, spec = networks(rc.architectures.CifarResNetArchitecture(depth=20, width=4), (3, 32, 32))
# RUN
rc.match(first, second, spec, "weight")
""",
    "frank_wolfe mlp-3x256": """
first, second, spec = networks(rc.architectures.MLPArchitecture(hidden=[256, 256, 256]), (784,))
# RUN
rc.match(first, second, spec, "frank_wolfe")
""",
    "match_many 60 x mlp-64-64": """
architecture = rc.architectures.MLPArchitecture(hidden=[64, 64])
every = [architecture.build((28,), 10, generator=generator(seed)) for seed in range(60)]
spec = architecture.spec(every[0])
# RUN
rc.match_many(every, spec, max_rounds=1)
""",
    "assignment 1024 random": """
matrix = torch.randn(1024, 1024, generator=generator(0))
solve = rc.assignment.CompiledAssignment().solve
# RUN
solve(matrix)
""",
    "assignment 1024 copy": """
features = torch.randn(1024, 4096, generator=generator(0))
matrix = features @ (features + torch.randn(1024, 4096, generator=generator(1))).T
solve = rc.assignment.CompiledAssignment().solve
# RUN
solve(matrix)
""",
    "assignment 1024 a fifth dead": """
matrix = torch.randn(1024, 1024, generator=generator(0))
matrix[:200], matrix[:, :200] = 0, 0
solve = rc.assignment.CompiledAssignment().solve
# RUN
solve(matrix)
""",
    "ensemble 8 x mlp-3x256": """
model = rc.architectures.MLPArchitecture(hidden=[256, 256, 256]).build((784,), 10, generator=generator(0))
data = batches(20)
# RUN
rc.inference.DeepEnsemble(members=8, epochs=1).fit(model, data)
""",
    "mean field mlp-3x512": """
model = rc.architectures.MLPArchitecture(hidden=[512, 512, 512]).build((784,), 10, generator=generator(0))
data = batches(20)
# RUN
rc.inference.MeanFieldVI(epochs=1).fit(model, data)
""",
    "barrier mean field mlp-2x128": """
architecture = rc.architectures.MLPArchitecture(hidden=[128, 128])
first, second, spec = networks(architecture, (784,))
sides = [{n: p.detach() for n, p in side.named_parameters()} for side in (first, second)]
make = rc.posteriors.DiagonalGaussianPosterior
one, other = [make(side, {n: torch.full_like(t, 0.02) for n, t in side.items()}) for side in sides]
task = rc.Task(first, batches(8))
# RUN
rc.barrier(one, other, task)
""",
    "apply to 64 layers": """
architecture = rc.architectures.MLPArchitecture(hidden=[64] * 64)
model = architecture.build((64,), 10, generator=generator(0))
tensors = {name: parameter.detach() for name, parameter in model.named_parameters()}
permutation = architecture.spec(model).random_permutation(generator=generator(1))
# RUN
permutation.apply(tensors)
""",
    "trace_spec vit": """
model = rc.architectures.ViTArchitecture(width=64, heads=4, depth=6, patch=8).build((3, 32, 32), 10)
example = torch.randn(2, 3, 32, 32, generator=generator(0))
# RUN
rc.trace_spec(model, example)
""",
    "check_spec resnet20": """
architecture = rc.architectures.CifarResNetArchitecture(depth=20)
model = architecture.build((3, 32, 32), 10, generator=generator(0)).eval()
example, spec = torch.randn(16, 3, 32, 32, generator=generator(0)), architecture.spec(model)
# RUN
rc.check_spec(spec, model, example)
""",
}

# Commands, timed as whole processes.
COMMANDS = {
    "import rebasin_core": ["-c", "import rebasin_core"],
    "rebasin --version": ["-m", "rebasin_core", "--version"],
    "rebasin --help": ["-m", "rebasin_core", "--help"],
}

PRELUDE = """
import warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
import rebasin_core as rc

def generator(seed):
    return torch.Generator().manual_seed(seed)

def networks(architecture, shape):
    first, second = [architecture.build(shape, 10, generator=generator(seed)) for seed in (0, 1)]
    return first, second, architecture.spec(first)

def batches(count):
    made = generator(2)
    return [(torch.randn(128, 784, generator=made), torch.randint(10, (128,), generator=made)) for _ in range(count)]
"""

TIMER = """
import time
def run():
{body}
run()
times = []
for _ in range(3):
    start = time.process_time()
    run()
    times.append(time.process_time() - start)
print(min(times))
"""


def script(case: str) -> str:
    """Return the program of a case, which prints its CPU seconds."""
    before, after = CASES[case].split("# RUN\n")
    return PRELUDE + before + TIMER.format(body="".join(f"    {line}\n" for line in after.splitlines()))


def seconds(tree: Path, case: str) -> float | None:
    """Run a case with the package of a checkout; return its CPU seconds, or None if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    arguments = COMMANDS.get(case) or ["-c", script(case)]
    before = os.times()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    after = os.times()
    if done.returncode:
        return None
    if case in COMMANDS:
        return after.children_user + after.children_system - before.children_user - before.children_system
    return float(done.stdout.split()[-1])


def checkout(commit: str, folder: Path) -> Path:
    """Check out a commit."""
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(folder), commit], cwd=ROOT, check=True)
    return folder


def main() -> None:
    """Print the table."""
    every = [*CASES, *COMMANDS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before")
    parser.add_argument("after", nargs="?", help="Default: the working tree.")
    parser.add_argument("--cases", nargs="+", choices=every, default=every, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trees = [checkout(options.before, Path(folder) / "before")]
        trees.append(ROOT if options.after is None else checkout(options.after, Path(folder) / "after"))
        rows = []
        try:
            for case in options.cases:
                found: list[list[float | None]] = [[], []]
                for number in range(options.rounds):
                    for side in (0, 1) if number % 2 == 0 else (1, 0):
                        found[side].append(seconds(trees[side], case))
                times = [min((t for t in side if t is not None), default=None) for side in found]
                before, after = times
                ratio = None if before is None or after is None else before / after
                shown = [None if t is None else 1000 * t for t in times]
                rows.append([case, *shown, ratio])
                print(tabulate([rows[-1]], tablefmt="plain", floatfmt=".2f", missingval="missing"), flush=True)
        finally:
            for tree in trees:
                if tree != ROOT:
                    subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    print(
        tabulate(rows, ["case", "before (ms)", "after (ms)", "ratio"], "github", floatfmt=".2f", missingval="missing")
    )


if __name__ == "__main__":
    main()
