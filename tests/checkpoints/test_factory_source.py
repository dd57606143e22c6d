"""Models from factories that can be imported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rebasin_core.checkpoints import Checkpoint, FactoryModelSource, SafetensorsReader
from rebasin_core.errors import ConfigError, InvalidInputError


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
    (tmp_path / "makers_of_a_user.py").write_text(
        "from torch import nn\n"
        "def make():\n    return nn.Sequential(nn.Linear(6, 2**13), nn.Dropout(), nn.Linear(2**13, 2))\n"
        "module = nn.Linear(2, 3)\n"
        "def fail():\n    raise ZeroDivisionError('no')\n"
        "def leave():\n    raise SystemExit(3)\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    save_file({"weight": torch.ones(2)}, tmp_path / "x.safetensors")
    return SafetensorsReader().read(tmp_path / "x.safetensors")


def test_the_factory_is_called_without_memory_for_parameters(checkpoint: Checkpoint) -> None:
    source = FactoryModelSource(factory="makers_of_a_user:make", inputs=("2,6",), named_inputs={"mask": "2:bool"})
    found = source.build(checkpoint)
    assert [p.device.type for p in found.module.parameters()] == ["meta"] * 4
    assert not found.module.training
    assert found.example_inputs is not None
    args, kwargs = found.example_inputs
    assert [tuple(tensor.shape) for tensor in args] == [(2, 6)]
    assert kwargs["mask"].dtype == torch.bool
    assert not found.identity
    assert found.form.shapes["0.weight"] == (2**13, 6)


def test_without_inputs_there_are_none(checkpoint: Checkpoint) -> None:
    assert FactoryModelSource(factory="makers_of_a_user:make").build(checkpoint).example_inputs is None


def test_a_module_is_used_unchanged(checkpoint: Checkpoint) -> None:
    found = FactoryModelSource(factory="makers_of_a_user:module").build(checkpoint)
    assert found.module.get_parameter("weight").device.type == "cpu"


def test_no_checkpoint_is_recognized(checkpoint: Checkpoint) -> None:
    assert not FactoryModelSource(factory="makers_of_a_user:make").recognizes(checkpoint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fail", "cannot make the model of .*x.safetensors by FactoryModelSource.*: ZeroDivisionError: no"),
        ("leave", "SystemExit: 3"),
        ("number", "expected makers_of_a_user:number to return a torch.nn.Module, got int"),
        ("missing", "has no attribute 'missing'"),
    ],
)
def test_failures_are_errors(checkpoint: Checkpoint, name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        FactoryModelSource(factory=f"makers_of_a_user:{name}").build(checkpoint)


@pytest.mark.parametrize("reference", ["models", ":net", "models:", ""])
def test_other_references_are_errors(reference: str) -> None:
    with pytest.raises(ConfigError, match=r"expected package\.module:factory"):
        FactoryModelSource(factory=reference)
