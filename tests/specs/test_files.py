"""Specifications in files and in the format of Git Re-Basin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import FileFormatError, SpecError

MODEL = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
INPUTS = torch.randn(3, 4)


def test_traced_spec_round_trip(tmp_path: Path) -> None:
    vit = rc.architectures.ViTArchitecture(patch=4, width=16, depth=2, heads=2, hidden=8)
    model = vit.build((3, 8, 8), 4)
    spec = rc.trace_spec(model, vit.example_inputs((3, 8, 8), 4))
    rc.save_spec(spec, tmp_path / "vit.json")
    read = rc.load_spec(tmp_path / "vit.json")
    assert read.layout == spec.layout
    assert read.layout.fingerprint == spec.layout.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["vit.json"]
    rc.check_spec(read, model, vit.example_inputs((3, 8, 8), 4)).require()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a specification in JSON"),
        ("[]", "specification"),
        (json.dumps({"kind": "specification", "version": 9}), "version 9"),
        (json.dumps({"kind": "specification", "version": 1, "groups": {}}), "groups"),
    ],
)
def test_invalid_files_raise(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(FileFormatError, match=message):
        rc.load_spec(tmp_path / "spec.json")
    with pytest.raises(FileFormatError, match=r"nothing.json"):
        rc.load_spec(tmp_path / "nothing.json")


def test_unknown_group_in_a_file_raises(tmp_path: Path) -> None:
    document = {"kind": "specification", "version": 1, "groups": {"a": {"size": 3}}, "axes": {"w": "b"}}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    with pytest.raises(FileFormatError, match="names the group 'b'"):
        rc.load_spec(tmp_path / "spec.json")


def test_file_of_another_model_raises(tmp_path: Path) -> None:
    rc.save_spec(rc.trace_spec(MODEL, INPUTS), tmp_path / "spec.json")
    factory = rc.build("spec", name="file", path=str(tmp_path / "spec.json"))
    assert factory.derive(MODEL, INPUTS).groups
    with pytest.raises(SpecError, match="have different tensors"):
        factory.derive(nn.Linear(4, 2), INPUTS)


def test_git_rebasin_round_trip() -> None:
    spec = rc.trace_spec(MODEL, INPUTS)
    converted = rc.specs.to_git_rebasin(spec)
    assert converted.perm_to_axes["units.0"] == [("0.weight", 0), ("0.bias", 0), ("2.weight", 1)]
    assert converted.axes_to_perm["4.weight"] == (None, "units.2")
    assert rc.specs.from_git_rebasin(converted, MODEL).layout == spec.layout
    assert rc.specs.from_git_rebasin(converted.axes_to_perm, MODEL).layout == spec.layout


def test_tensors_omitted_by_git_rebasin_are_fixed_and_fail_the_check() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    table = {
        "0.weight": ("P", None),
        "0.bias": ("P",),
        "1.weight": ("P",),
        "1.bias": ("P",),
        "2.weight": (None, "P"),
        "2.bias": (None,),
    }
    check = rc.check_spec(rc.specs.from_git_rebasin(table, model), model, INPUTS)
    assert not check.passed
    assert "change 2 axes together" in str(check)


def test_axes_that_git_rebasin_cannot_express_are_named() -> None:
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(SpecError, match=r"`2.weight` \[2, units.0\*2\]"):
        rc.specs.to_git_rebasin(rc.trace_spec(model, torch.randn(2, 1, 4)))


def test_run_file_with_a_traced_spec(tmp_path: Path) -> None:
    config = {
        "data": "digits",
        "architecture": {"name": "cifar_resnet", "depth": 8, "norm": "frn"},
        "spec": "traced",
        "inference": {"name": "map", "epochs": 1},
        "matchers": ["weight"],
        "barrier": {"name": "pointwise", "num_points": 3},
        "num_train": 64,
    }
    (tmp_path / "run.json").write_text(json.dumps(config))
    result = rc.run(rc.load_run(tmp_path / "run.json"), tmp_path / "out")
    assert set(result.curves["test"]) == {"unaligned", "weight"}
