"""Errors of commands name options of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.cli.conftest import Called

NETS = """
from torch import nn


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.first(x).relu() if x.sum() > 0 else self.first(x).tanh())


def make():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
"""
PAIR = ("a.safetensors", "b.safetensors")
MODEL = ("-m", "nets:make", "-i", "2,4")
OUTPUT = ("-o", "out.safetensors")
PYTHON = ("`kwargs`", "tuple", "`task`", "`model`", "`root`", "`download", "method='")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    for name, seed in zip(PAIR, (1, 2), strict=True):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        save_file(model.state_dict(), tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["spec", "nets:make"], ["--input 8,3,32,32", "--kwarg NAME=SHAPE"]),
        (["spec", "nets:make", "-i", "2,5"], ["--input 8,3,32,32"]),
        (["spec", "nets:Branch", "-i", "2,4", "--method", "export"], ["--method execution", "--method auto"]),
        (["align", *PAIR, "-m", "nets:make", *OUTPUT], ["--input 8,3,32,32"]),
        (["align", *PAIR, *OUTPUT], ["--model"]),
        (["align", *PAIR, *MODEL, "--matcher", "activation", *OUTPUT], ["--data"]),
        (["align", *PAIR, *MODEL, "--matcher", "straight_through", *OUTPUT], ["--data"]),
        (["align", *PAIR, *MODEL, "--data", "mnist", *OUTPUT], ["--root", "--data-option download=true"]),
        (["merge", *PAIR, *MODEL, "--repair", "reset", *OUTPUT], ["--repair reset", "--data"]),
        (["barrier", *PAIR, *MODEL], ["--data", "--root"]),
        (["barrier", *PAIR, *MODEL, "--points", "1"], ["--points"]),
    ],
)
def test_errors_name_options(folder: Path, called: Called, arguments: list[str], options: list[str]) -> None:
    code, output, errors = called(*arguments, cwd=folder)
    assert (code, output) == (2, "")
    assert all(option in errors for option in options), errors
    assert not [word for word in PYTHON if word in errors], errors


def test_errors_of_run_files_name_their_keys(tmp_path: Path, called: Called) -> None:
    (tmp_path / "run.yaml").write_text("""
data: {name: mnist, root: none}
architecture: {name: mlp, hidden: [4]}
inference: {name: map, epochs: 1}
matchers: [weight]
barrier: pointwise
""")
    code, _, errors = called("run", "run.yaml", cwd=tmp_path)
    assert code == 2
    assert "set `root` to the folder that contains it, or `download: true`" in errors
