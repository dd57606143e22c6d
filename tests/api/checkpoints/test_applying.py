"""Saved permutations applied to other checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import rebasin_core as rc
from rebasin_core.api.checkpoints import apply_to_checkpoint
from rebasin_core.errors import FileFormatError, InvalidInputError, StorageError
from tests.api.checkpoints.networks import CONVOLUTIONAL, MLP, noisy, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional network, a permuted copy, and the permutation that an alignment found."""
    folder = tmp_path_factory.mktemp("pair")
    first = write(folder / "a.safetensors", CONVOLUTIONAL.network())
    second = write(folder / "b.safetensors", CONVOLUTIONAL.permuted(CONVOLUTIONAL.network(), CONVOLUTIONAL.orders()))
    rc.align_checkpoints(first, second, model=CONVOLUTIONAL.source, chance=False).write(folder / "c.safetensors")
    return folder


PERMUTATION = "c.permutation.safetensors"


def test_a_later_checkpoint_of_the_candidate_is_permuted_in_the_same_way(folder: Path, tmp_path: Path) -> None:
    later = noisy(CONVOLUTIONAL.network(seed=3), 1.0)
    permuted = write(tmp_path / "later.safetensors", CONVOLUTIONAL.permuted(later, CONVOLUTIONAL.orders()))
    files = apply_to_checkpoint(folder / PERMUTATION, permuted, tmp_path / "out.safetensors")
    assert files == (tmp_path / "out.safetensors", tmp_path / "out.permutation.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[name], later[name]) for name in later)
    assert found.keys() == later.keys()


def test_the_inverse_restores_the_candidate(folder: Path, tmp_path: Path) -> None:
    permutations: list[rc.Permutation | Path] = [rc.Permutation.load(folder / PERMUTATION), folder / PERMUTATION]
    for number, given in enumerate(permutations):
        output = tmp_path / f"{number}.safetensors"
        apply_to_checkpoint(given, folder / "c.safetensors", output, inverse=True)
        found, candidate = load_file(output), load_file(folder / "b.safetensors")
        assert all(torch.equal(found[name], candidate[name]) for name in candidate)


def test_names_prefixes_and_dtypes_are_those_of_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "b.safetensors")
    torch.save({f"module.{name}": tensor.half() for name, tensor in tensors.items()}, tmp_path / "b.pt")
    apply_to_checkpoint(folder / PERMUTATION, tmp_path / "b.pt", tmp_path / "out.safetensors")
    found, expected = load_file(tmp_path / "out.safetensors"), CONVOLUTIONAL.network()
    assert all(torch.equal(found[f"module.{name}"], expected[name].half()) for name in expected)


def test_the_permutation_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "o.permutation.safetensors").write_bytes((folder / PERMUTATION).read_bytes())
    before = (tmp_path / "o.permutation.safetensors").read_bytes()
    for force in (False, True):
        with pytest.raises(StorageError, match="is also an input"):
            apply_to_checkpoint(
                tmp_path / "o.permutation.safetensors", folder / "b.safetensors", tmp_path / "o.safetensors",
                inverse=True, force=force,
            )  # fmt: skip
    assert (tmp_path / "o.permutation.safetensors").read_bytes() == before


def test_checkpoints_of_other_networks_are_rejected(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.safetensors", MLP.network())
    with pytest.raises(InvalidInputError, match="does not fit"):
        apply_to_checkpoint(folder / PERMUTATION, other, tmp_path / "out.safetensors")
    wider = load_file(folder / "b.safetensors")
    wider["0.weight"] = torch.zeros(7, 1, 3, 3)
    save_file(wider, tmp_path / "wider.safetensors")
    with pytest.raises(InvalidInputError, match=r"0\.weight"):
        apply_to_checkpoint(folder / PERMUTATION, tmp_path / "wider.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_files_that_are_no_permutation_are_rejected(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "a.safetensors", tmp_path / "missing"):
        with pytest.raises(FileFormatError):
            apply_to_checkpoint(path, folder / "b.safetensors", tmp_path / "out.safetensors")
