"""The inverse of a folding, on the folded network and on others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

import rebasin_core as rc
from rebasin_core.analysis import Folding
from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.symmetry import SymmetryElement
from tests.analysis.folding.networks import MODELS, example, fold, outputs, randomized

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", MODELS)
def test_the_inverse_returns_the_original_up_to_rounding(name: str) -> None:
    given = example(name)
    folded = fold(given.tensors, given.spec)
    undone = folded.undo(folded.network)
    for key, tensor in given.tensors.items():
        torch.testing.assert_close(undone[key], tensor, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", ["gpt", "gpt without bias", "llama", "gemma", "vision"])
def test_aligned_networks_keep_their_function_in_the_coordinates_of_another_one(name: str) -> None:
    given, other = example(name), example(name, seed=1)
    reference = fold(given.tensors, given.spec)
    candidate = fold(other.tensors, given.spec)
    generator = torch.Generator().manual_seed(2)
    aligned = SymmetryElement.random(given.spec.folded_symmetry, generator=generator).apply(candidate.network)
    undone = reference.undo(aligned)
    expected = outputs(given.model, other.tensors, given.inputs)
    found = outputs(given.model, undone, given.inputs)
    assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    scale = next(key for key in reference.report.scales)
    torch.testing.assert_close(undone[scale], given.tensors[scale])


def test_midpoints_are_the_same_before_and_after_the_inverse() -> None:
    given, other = example("gpt"), example("gpt", seed=1)
    reference = fold(given.tensors, given.spec)
    candidate = fold(other.tensors, given.spec)
    undone = reference.undo(candidate.network)
    folded_middle = {name: (tensor + candidate.network[name]) / 2 for name, tensor in reference.network.items()}
    middle = {name: (tensor + undone[name]) / 2 for name, tensor in given.tensors.items()}
    expected = outputs(given.model, folded_middle, given.inputs)
    torch.testing.assert_close(outputs(given.model, middle, given.inputs), expected, rtol=1e-11, atol=1e-11)


def test_networks_that_are_not_folded_are_errors() -> None:
    given = example("gpt")
    folded = fold(given.tensors, given.spec)
    with pytest.raises(InvalidInputError, match="expected a folded network"):
        folded.undo(given.tensors)


def test_files_contain_the_map(tmp_path: Path) -> None:
    given = example("vision")
    folded = fold(given.tensors, given.spec)
    path = tmp_path / "folding.safetensors"
    folded.folding.save(path, meta={"note": "a"})
    loaded = Folding.load(path)
    for name in given.tensors:
        first = folded.folding.unfolded(name, folded.network)
        second = loaded.unfolded(name, folded.network)
        assert torch.equal(first, second)
    assert loaded.changed == folded.folding.changed


def test_damaged_files_are_named(tmp_path: Path) -> None:
    given = example("mlp")
    path, other = tmp_path / "folding.safetensors", tmp_path / "other.safetensors"
    fold(given.tensors, given.spec).folding.save(path)
    tensors = load_file(path)
    save_file(tensors, other)
    with pytest.raises(FileFormatError, match=r"other\.safetensors"):
        Folding.load(other)
    path.write_bytes(path.read_bytes().replace(b"mean/0/0.weight", b"mean/7/0.weight"))
    with pytest.raises(FileFormatError, match=r"`0\.weight` has 2 dimensions, got dimension 7"):
        Folding.load(path)
    path.write_bytes(path.read_bytes().replace(b"mean/7/0.weight", b"mean/0/9.weight"))
    with pytest.raises(FileFormatError, match=r"does not have the tensors `9\.weight`"):
        Folding.load(path)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 2e-6), (torch.bfloat16, 0.1)])
def test_single_and_half_precision_round_each_tensor_once(dtype: torch.dtype, rounding: float) -> None:
    given = example("gpt")
    tensors = {name: tensor.to(dtype) for name, tensor in given.tensors.items()}
    folded = fold(tensors, given.spec)
    assert {tensor.dtype for tensor in folded.network.values()} == {dtype}
    expected = fold({name: tensor.double() for name, tensor in tensors.items()}, given.spec).network
    for name, tensor in folded.network.items():
        torch.testing.assert_close(tensor, expected[name].to(dtype), rtol=0, atol=0)
    undone = folded.undo(folded.network)
    for name, tensor in tensors.items():
        assert (undone[name] - tensor).abs().max() <= rounding * tensor.abs().max()


def test_modules_are_copied() -> None:
    given = example("gpt")
    before = given.tensors
    folded = rc.fold(given.model, given.spec, shifts=True, center=True)
    assert folded.network is not given.model
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.model.named_parameters())
    expected = fold(before, given.spec).network
    assert all(torch.equal(tensor, expected[name]) for name, tensor in folded.network.named_parameters())
    undone = folded.undo(folded.network)
    for name, tensor in undone.named_parameters():
        torch.testing.assert_close(tensor.detach(), before[name], rtol=1e-13, atol=1e-13)


def test_the_function_is_compared_in_double_precision() -> None:
    torch.manual_seed(0)
    model = randomized(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2)))
    folded = rc.fold(model, rc.trace_spec(model, torch.randn(2, 3)))
    assert folded.report.difference is not None
    assert folded.report.difference.is_kept
    assert folded.report.difference.error < 1e-14
    assert "function kept" in str(folded.report)
