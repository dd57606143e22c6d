"""Command lines on small files, run in this process, and their documented exit codes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
import warnings
from collections.abc import Generator
from pathlib import Path

import torch
from safetensors.torch import save_file

from rebasin_core.cli import main
from rebasin_core.cli.guard import ExitCode
from tests.hostile.mutations import mutated_arguments, mutated_bytes

NETS = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

def leave():
    raise SystemExit(0)

number = 3
"""
SPEC = {
    "kind": "specification", "version": 1, "groups": {"h": {"size": 4}},
    "axes": {"0.weight": "h, 3", "0.bias": "h", "2.weight": "2, h", "2.bias": "2"},
}  # fmt: skip
PAIR = ["nets:make", "a.safetensors", "b.safetensors", "-i", "2,3"]  # the input shape for checking the specification
COMMANDS = [
    ["spec", "nets:make", "-i", "2,3", "--no-check"],
    ["align", *PAIR, "--spec", "spec.json", "--matcher", "weight", "-o", "out.safetensors"],
    ["merge", *PAIR, "--spec", "spec.json", "--matcher", "weight", "-w", "1", "-w", "2", "-o", "out.safetensors"],
    ["barrier", *PAIR, "--spec", "spec.json", "--data", "uci", "--root", "."],
    ["run", "bad.yaml", "-o", "out", "--no-progress"],
    ["report", "folder"],
    ["check", "no-such-package"],
]
DOCUMENTED = frozenset(ExitCode) - {ExitCode.INTERNAL}


def prepare(folder: Path) -> None:
    """Write the files for the commands."""
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    (folder / "spec.json").write_text(json.dumps(SPEC), encoding="utf-8")
    (folder / "bad.yaml").write_text("data: nothing\n", encoding="utf-8")
    (folder / "empty").write_bytes(b"")
    (folder / "folder").mkdir()
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "fifo")
    for seed, name in enumerate("ab"):
        generator = torch.Generator().manual_seed(seed)
        shapes = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
        save_file({n: torch.randn(s, generator=generator) for n, s in shapes.items()}, folder / f"{name}.safetensors")


def commands(seed: int, folder: Path) -> list[str]:
    """Return a mutated command line; sometimes, mutate one of its files, too."""
    rng = random.Random(seed)
    words = mutated_arguments(rng.choice(COMMANDS), rng)
    if rng.random() < 0.3:
        path = folder / rng.choice(["spec.json", "bad.yaml", "b.safetensors"])
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    return words


@contextlib.contextmanager
def _restored(folder: Path) -> Generator[None]:
    before = Path.cwd(), list(sys.argv), list(sys.path), sys.stdout, sys.stderr, warnings.showwarning
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before[0])
        sys.argv, sys.path, sys.stdout, sys.stderr = before[1], before[2], before[3], before[4]
        warnings.showwarning = before[5]
        sys.modules.pop("nets", None)


def run_command(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a command line, and return its exit code and standard error."""
    errors = io.StringIO()
    with _restored(folder), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        sys.argv = ["rebasin", *words]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                main()
            except SystemExit as error:
                return int(error.code or 0), errors.getvalue()
    return 0, errors.getvalue()
