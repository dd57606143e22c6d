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
"""
WRONG = {"0.weight": "6, 4", "0.bias": "6", "2.weight": "o, 6", "2.bias": "o"}
RIGHT = {"0.weight": "h, 4", "0.bias": "h", "2.weight": "3, h", "2.bias": "3"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checked_nets.py").write_text(NETS)
    namespace: dict[str, type[torch.nn.Module]] = {}
    exec(NETS, namespace)
    first = namespace["make"]().state_dict()
    save_file(first, tmp_path / "a.safetensors")
    # The wrong specification permutes the outputs.
    save_file({n: t.flip(0) if n.startswith("2.") else t for n, t in first.items()}, tmp_path / "b.safetensors")
    for name, axes, group in (("wrong", WRONG, "o"), ("right", RIGHT, "h")):
        groups = {group: {"size": 3 if group == "o" else 6}}
        document = {"kind": "specification", "version": 1, "groups": groups, "axes": axes}
        (tmp_path / f"{name}.json").write_text(json.dumps(document))
    return tmp_path


@pytest.mark.parametrize("command", ["align", "merge"])
def test_no_file_is_written_with_a_wrong_specification(folder: Path, called: Called, command: str) -> None:
    arguments = (command, "a.safetensors", "b.safetensors", "--spec", "wrong.json", "-o", "out.safetensors")
    model = ("-m", "checked_nets:make", "-i", "2,4")
    code, _, errors = called(*arguments, *model, cwd=folder)
    assert code == 2
    assert "the permutation changes the function of the model" in errors
    code, _, errors = called(*arguments, cwd=folder)
    assert code == 2
    assert "the function check needs the model" in errors
    assert not [*folder.glob("out*.safetensors")]
    assert called(*arguments, "--no-check", cwd=folder)[0] == 0


def test_a_correct_specification_preserves_the_function(folder: Path, called: Called) -> None:
    arguments = ("align", "a.safetensors", "b.safetensors", "--spec", "right.json", "-o", "out.safetensors")
    code, output, errors = called(*arguments, "-m", "checked_nets:make", "-i", "2,4", cwd=folder)
    assert code == 0, errors
    assert "function kept" in output
    first, permuted = load_file(folder / "b.safetensors"), load_file(folder / "out.safetensors")
    assert torch.equal(first["0.bias"].sort().values, permuted["0.bias"].sort().values)
