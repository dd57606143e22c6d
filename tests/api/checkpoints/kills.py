"""Alignments and merges in child processes that are killed at random moments: a program for `test_search.py`.

    python -m tests.api.checkpoints.kills FOLDER KILLS SEED

It prints, for each command, the number of kills, and the sizes of the outputs. It fails if the same command does not
continue, or if an output differs from that of an undisturbed run in any byte.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

from rebasin_core.api import resumption
from rebasin_core.api.checkpoints import run_recipe
from rebasin_core.config.recipe import AlignRecipe, MergeRecipe
from rebasin_core.plugin.registry import default_registry
from tests.api.checkpoints.networks import WIDE, write

Recipe = AlignRecipe | MergeRecipe


def recipe(kind: type[AlignRecipe | MergeRecipe], output: Path) -> Recipe:
    """Return an alignment or a merge of the independent networks in the folder of the output."""
    inputs = [output.parent / name for name in ("a.safetensors", "b.safetensors")]
    given = {"reference": inputs[0], "candidate": inputs[1]} if kind is AlignRecipe else {"checkpoints": inputs}
    entries = {"model": WIDE.source, "output": output, **given}
    return kind.model_validate(entries, context={"lookup": default_registry().strategy_class})


def start(given: Recipe) -> int:
    """Run a recipe in a child process."""
    child = os.fork()
    if child == 0:
        try:
            run_recipe(given)
        except BaseException as error:  # ruff: ignore[blind-except] - the parent reports the exit code
            sys.stderr.write(f"{error!r}\n")
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    return child


def finished(child: int) -> bool:
    """Wait for a child process; return whether it was not killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit("a run failed")
    return True


def contents(output: Path) -> dict[str, bytes]:
    """Return the bytes of an output and of its permutations."""
    paths = [output, *output.parent.glob(f"{output.stem}.permutation*.safetensors")]
    return {path.name: path.read_bytes() for path in paths}


def removed(output: Path) -> None:
    for name in contents(output):
        (output.parent / name).unlink()
    shutil.rmtree(output.with_name(f"{output.name}.unfinished"), ignore_errors=True)


def disturbed(given: Recipe, kills: int, chooser: random.Random) -> int:
    """Run a recipe undisturbed, then with kills; return the number of kills."""
    output = given.output
    assert output is not None
    run_recipe(given)  # in this process: child processes then need no import of the modules for tracing
    expected = contents(output)
    removed(output)
    started = time.monotonic()
    assert finished(start(given))
    seconds = time.monotonic() - started
    assert contents(output) == expected
    removed(output)
    count = 0
    while count < kills or not output.exists():
        child = start(given)
        if count < kills:
            time.sleep(chooser.uniform(0, 1.2 * seconds))
            os.kill(child, signal.SIGKILL)
        if not finished(child):
            count += 1
        if output.exists():  # complete, also if the process was killed before it has removed its state
            if contents(output) != expected:
                sys.exit("the output differs from that of an undisturbed run")
            if output.with_name(f"{output.name}.unfinished").exists():  # the same command removes it
                assert finished(start(given))
                assert contents(output) == expected
            if output.with_name(f"{output.name}.unfinished").exists():
                sys.exit("the unfinished work was not removed")
            if count < kills:
                removed(output)
    remaining = {path.name for path in output.parent.iterdir()} - {"a.safetensors", "b.safetensors"}
    if remaining - set(expected):
        sys.exit(f"there are further files: {remaining}")
    removed(output)
    return count


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    resumption._INTERVAL = 0.0  # the state of searches is written after every step
    for name, number in (("a", 0), ("b", 1)):
        write(folder / f"{name}.safetensors", WIDE.network(seed=number))
    chooser = random.Random(seed)
    for kind in (AlignRecipe, MergeRecipe):
        count = disturbed(recipe(kind, folder / "o.safetensors"), kills, chooser)
        sys.stdout.write(f"{kind.__name__} {count}\n")


if __name__ == "__main__":
    main()
