"""`rebasin spec` of files and folders: the groups are those of the network, and are checked with the files' tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from tests.api.checkpoints.networks import CASES, MLP, Case, write
from tests.api.checkpoints.test_models import HiddenSource, registry
from tests.cli.conftest import Called

MODEL = ("-m", str(MLP.source["factory"]), "-i", "5,8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file, and a folder whose configuration an installed source recognizes."""
    write(tmp_path / "a.safetensors", MLP.network())
    (tmp_path / "hidden").mkdir()
    tensors = {"0.weight": (7, 3), "0.bias": (7,), "2.weight": (2, 7), "2.bias": (2,)}
    generator = torch.Generator().manual_seed(0)
    write(
        tmp_path / "hidden" / "model.safetensors",
        {name: torch.randn(shape, generator=generator) for name, shape in tensors.items()},
    )
    (tmp_path / "hidden" / "config.json").write_text('{"hidden": 7}')
    sources = registry(HiddenSource)
    monkeypatch.setattr("rebasin_core.api.checkpoints.models.default_registry", lambda: sources)
    return tmp_path


def permuted_axes(document: Mapping[str, Any]) -> set[frozenset[tuple[str, int]]]:
    """Return the axes on which each group acts: those whose text names the group."""
    found: dict[str, set[tuple[str, int]]] = {name: set() for name in document["groups"]}
    for name, text in document["axes"].items():
        for dim, axis in enumerate(text.split(",")):
            if axis.strip() in found:
                found[axis.strip()].add((name, dim))
    return {frozenset(axes) for axes in found.values()}


def test_the_groups_of_a_file_are_those_of_the_network(folder: Path, called: Called) -> None:
    code, output, errors = called("spec", "a.safetensors", *MODEL, "-o", "spec.json", cwd=folder)
    assert (code, errors) == (0, "")
    assert "function kept" in output
    document = json.loads((folder / "spec.json").read_text())
    assert permuted_axes(document) == {frozenset(axes) for axes in MLP.axes.values()}
    code, output, errors = called("spec", "a.safetensors", *MODEL, "--json", cwd=folder)
    assert code == 0
    assert json.loads(output) == document
    assert "function kept" in errors


def test_the_model_of_a_folder_is_that_of_its_configuration(folder: Path, called: Called) -> None:
    code, output, errors = called("spec", "hidden", "-o", "spec.json", cwd=folder)
    assert (code, errors) == (0, "")
    assert "function kept" in output
    document = json.loads((folder / "spec.json").read_text())
    assert permuted_axes(document) == {frozenset({("0.weight", 0), ("0.bias", 0), ("2.weight", 1)})}
    arguments = ("align", "hidden", "hidden", "--spec", "spec.json", "--no-check", "--no-chance", "-o", "o.safetensors")
    assert called(*arguments, "--quiet", cwd=folder) == (0, "", "")
    found, expected = load_file(folder / "o.safetensors"), load_file(folder / "hidden" / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_check_uses_the_tensors_of_the_file(case: Case, tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", case.network())
    found = rc.api.checkpoints.spec_of_checkpoint(file, model=case.source)
    assert found.check is not None
    assert found.check.is_kept
    assert found.check.error < 1e-5
    assert sum(group.size for group in found.spec.layout.groups.values()) >= sum(
        size for name, size in case.sizes.items() if name not in case.blocks
    )
    assert rc.api.checkpoints.spec_of_checkpoint(file, model=case.source, check=False).check is None


def test_patterns_and_prefixes(folder: Path, called: Called) -> None:
    write(folder / "p.safetensors", {f"module.{name}": tensor for name, tensor in MLP.network().items()})
    code, output, errors = called("spec", "p.safetensors", *MODEL, "--freeze", "0.*", "--json", cwd=folder)
    assert code == 0, errors
    assert permuted_axes(json.loads(output)) == {frozenset(MLP.axes["second"])}
    code, _, errors = called("spec", "p.safetensors", *MODEL, "--strict", cwd=folder)
    assert code == 2
    assert "0.weight" in errors
    assert called("spec", "p.safetensors", *MODEL, "--strict", "--no-check", cwd=folder)[0] == 0


def test_outputs_that_cannot_be_compared_are_a_failed_check(folder: Path, called: Called) -> None:
    tensors = MLP.network()
    tensors["4.bias"][0] = torch.inf
    write(folder / "inf.safetensors", tensors)
    arguments = ("spec", "inf.safetensors", *MODEL, "-o", "spec.json")
    code, output, _ = called(*arguments, cwd=folder)
    assert code == 1
    assert "outputs were not compared: the outputs are not finite" in output
    assert not (folder / "spec.json").exists()
    assert called(*arguments, "--allow-untested", cwd=folder)[0] == 0
    assert (folder / "spec.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("a.safetensors",), 2, "has no configuration"),
        (("a.safetensors", "-i", "5,8"), 2, "--input and --kwarg are the inputs of a factory"),
        (("a.safetensors", *MODEL[:2]), 2, "expected example inputs of the model of a.safetensors"),
        (("hidden", *MODEL), 2, "hidden"),
        (("absent.safetensors", *MODEL), 2, "absent.safetensors"),
        (("a.safetensors", *MODEL, "--meta"), 2, "--meta is an option for factories"),
        ((MODEL[1], "-i", "5,8", "--model", MODEL[1]), 2, "--model is an option for checkpoints"),
        ((MODEL[1], "-i", "5,8", "--prefix", "x."), 2, "--prefix is an option for checkpoints"),
        (("a.safetensors", *MODEL, "--freeze", "absent*"), 2, "no parameter or buffer matches 'absent*'"),
        (("a.safetensors", *MODEL, "-o", "a.safetensors", "--force"), 3, "is also an input"),
    ],
)
def test_wrong_values_are_one_line_and_write_no_file(
    folder: Path, called: Called, arguments: tuple[str, ...], code: int, message: str
) -> None:
    before = (folder / "a.safetensors").read_bytes()
    written = () if "-o" in arguments else ("-o", "spec.json")
    found, output, errors = called("spec", *arguments, *written, cwd=folder)
    assert (found, output) == (code, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert not (folder / "spec.json").exists()
    assert (folder / "a.safetensors").read_bytes() == before


def test_models_without_example_inputs_are_errors(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="expected example inputs"):
        rc.api.checkpoints.spec_of_checkpoint(folder / "a.safetensors", model=str(MLP.source["factory"]))
