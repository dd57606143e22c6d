"""A specification from a file is checked before a checkpoint is written with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Called

NETS = """
import torch
def make():
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
class Aside(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
        self.aside = torch.nn.Linear(6, 2)
    def forward(self, x):
        return self[2](self[1](self[0](x)))
"""
WRONG = {"0.weight": "6, 4", "0.bias": "6", "2.weight": "o, 6", "2.bias": "o"}
RIGHT = {"0.weight": "h, 4", "0.bias": "h", "2.weight": "3, h", "2.bias": "3"}
UNTESTED = {**RIGHT, "aside.weight": "2, h", "aside.bias": "2"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checked_nets.py").write_text(NETS)
    namespace: dict[str, type[torch.nn.Module]] = {}
    exec(NETS, namespace)
    for name, make in (("", "make"), ("aside_", "Aside")):
        for number in "ab":
            save_file(namespace[make]().state_dict(), tmp_path / f"{name}{number}.safetensors")
    for name, axes, group in (("wrong", WRONG, "o"), ("right", RIGHT, "h"), ("untested", UNTESTED, "h")):
        groups = {group: {"size": 3 if group == "o" else 6}}
        document = {"kind": "specification", "version": 1, "groups": groups, "axes": axes}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.parametrize("command", ["align", "merge"])
def test_nothing_is_written_with_a_wrong_specification(folder: Path, called: Called, command: str) -> None:
    arguments = (command, "checked_nets:make", "a.safetensors", "b.safetensors", "--spec", "wrong.json", "-o", "out")
    code, _, errors = called(*arguments, "-i", "2,4", cwd=folder)
    assert code != 0
    assert "does not preserve the function" in errors
    assert "`2.weight`, axis 0: should not belong to the group" in errors
    code, _, errors = called(*arguments, cwd=folder)
    assert code == 2
    assert "checked before use" in errors
    assert not [*folder.glob("out*")]
    assert called(*arguments, "--check", "none", cwd=folder)[0] == 0


def test_a_correct_specification_preserves_the_function(folder: Path, called: Called) -> None:
    arguments = ("align", "checked_nets:make", "a.safetensors", "b.safetensors", "--spec", "right.json", "-o", "out")
    assert called(*arguments, "-i", "2,4", cwd=folder)[0] == 0
    first, moved = load_file(folder / "b.safetensors"), load_file(folder / "out")
    assert torch.equal(first["0.bias"].sort().values, moved["0.bias"].sort().values)


def test_untested_tensors_are_an_error_unless_allowed(folder: Path, called: Called) -> None:
    checkpoints = ("aside_a.safetensors", "aside_b.safetensors")
    arguments = ("align", "checked_nets:Aside", *checkpoints, "--spec", "untested.json", "-o", "out", "-i", "2,4")
    code, _, errors = called(*arguments, cwd=folder)
    assert code == 2
    assert "untested, not used by the model on these inputs: `aside.weight`" in errors
    assert called(*arguments, "--check", "kept", cwd=folder)[0] == 0
