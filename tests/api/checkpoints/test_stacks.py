"""Checkpoints of models whose experts are separate modules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import rebasin_core as rc
from rebasin_core.api.checkpoints import apply_to_checkpoint, verify_output
from rebasin_core.errors import InvalidInputError
from rebasin_core.symmetry import SymmetryElement
from tests.symmetry.experts import TABLE, Mixture, element, spec, tensors_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, a copy with exchanged experts, and the specification."""
    reference = tensors_of(Mixture())
    save_file(reference, tmp_path / "a.safetensors")
    save_file(element().apply(reference), tmp_path / "b.safetensors")
    rc.save_spec(spec(), tmp_path / "spec.json")
    return tmp_path


def test_exchanged_experts_are_aligned_and_verified(folder: Path) -> None:
    a, b = folder / "a.safetensors", folder / "b.safetensors"
    out = folder / "out.safetensors"
    found = rc.align_checkpoints(a, b, spec=folder / "spec.json", check=False, chance=False)
    assert found.permutation == element().inverse()
    found.write(out)
    reference, aligned = load_file(a), load_file(out)
    assert all(torch.equal(aligned[name], tensor) for name, tensor in reference.items())
    assert verify_output(out, a, b) == []


def test_saved_exchanges_are_applied_tensor_by_tensor(folder: Path) -> None:
    element().save(folder / "p.safetensors")
    apply_to_checkpoint(folder / "p.safetensors", folder / "a.safetensors", folder / "out.safetensors")
    expected, found = load_file(folder / "b.safetensors"), load_file(folder / "out.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    apply_to_checkpoint(folder / "p.safetensors", folder / "out.safetensors", folder / "back.safetensors", inverse=True)
    back, reference = load_file(folder / "back.safetensors"), load_file(folder / "a.safetensors")
    assert all(torch.equal(back[name], tensor) for name, tensor in reference.items())


def test_signs_within_experts_are_applied(folder: Path) -> None:
    reference = load_file(folder / "a.safetensors")
    symmetry = rc.table_spec(TABLE, reference, kinds={"hidden": "sign"}).symmetry
    drawn = SymmetryElement.random(symmetry, generator=torch.Generator().manual_seed(2))
    apply_to_checkpoint(drawn, folder / "a.safetensors", folder / "out.safetensors")
    expected, found = drawn.apply(reference), load_file(folder / "out.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_checkpoint_without_an_expert_is_rejected(folder: Path) -> None:
    tensors = load_file(folder / "b.safetensors")
    del tensors["experts.2.up.bias"]
    save_file(tensors, folder / "c.safetensors")
    with pytest.raises(InvalidInputError, match=r"experts\.2\.up\.bias"):
        rc.align_checkpoints(
            folder / "a.safetensors", folder / "c.safetensors", spec=folder / "spec.json", check=False, chance=False
        )


def test_permutation_file_states_the_stacks(folder: Path) -> None:
    element().save(folder / "p.safetensors")
    head = (folder / "p.safetensors").read_bytes()
    length = int.from_bytes(head[:8], "little")
    assert "experts.{expert}.up.weight" in json.dumps(json.loads(head[8 : 8 + length]))
