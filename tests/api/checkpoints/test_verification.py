"""Outputs of alignments can be verified later, and every change of them or of the inputs is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import rebasin_core as rc
from rebasin_core.api.checkpoints import apply_to_checkpoint, merge_checkpoints, verify_output
from rebasin_core.errors import FileFormatError
from tests.api.checkpoints.networks import MLP, noisy, write


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    write(folder / "a.safetensors", MLP.network())
    candidate = MLP.permuted(noisy(MLP.network(), 0.02), MLP.orders())
    write(folder / "b.safetensors", {**candidate, "extra": torch.ones(2)})
    found = rc.align_checkpoints(folder / "a.safetensors", folder / "b.safetensors", model=MLP.source)
    found.write(folder / "c.safetensors")
    found.write(folder / "c", max_shard_bytes=600)
    found.write(folder / "half.safetensors", dtype=torch.bfloat16)
    return folder


@pytest.fixture
def pair(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def verified(folder: Path, output: str = "c.safetensors") -> list[str]:
    return verify_output(folder / output, folder / "a.safetensors", folder / "b.safetensors")


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as handle:
        return dict(handle.metadata())


@pytest.mark.parametrize("output", ["c.safetensors", "c", "half.safetensors"])
def test_outputs_are_verified(pair: Path, output: str) -> None:
    assert verified(pair, output) == []


def test_outputs_are_verified_after_they_were_moved_with_their_permutation(pair: Path) -> None:
    (pair / "c").rename(pair / "d")
    assert verified(pair, "d") == []


def test_the_smallest_change_of_an_entry_is_found(pair: Path) -> None:
    tensors = load_file(pair / "c.safetensors")
    tensors["2.weight"][3, 4] = torch.nextafter(tensors["2.weight"][3, 4], torch.tensor(9.0))
    save_file(tensors, pair / "c.safetensors", metadata=metadata(pair / "c.safetensors"))
    assert verified(pair) == ["`2.weight` of the output is not that of the permuted candidate"]


def test_the_sign_of_zero_and_extra_tensors_are_compared(pair: Path) -> None:
    tensors = load_file(pair / "c.safetensors")
    tensors["extra"] = torch.tensor([1.0, -0.0])
    tensors["new"] = torch.zeros(1)
    del tensors["4.bias"]
    save_file(tensors, pair / "c.safetensors", metadata=metadata(pair / "c.safetensors"))
    assert verified(pair) == [
        "`4.bias` is missing in the output",
        "`extra` of the output is not that of the permuted candidate",
        "`new` of the output is not in the candidate",
    ]


@pytest.mark.parametrize(("name", "role"), [("a.safetensors", "reference"), ("b.safetensors", "candidate")])
def test_a_changed_input_is_named(pair: Path, name: str, role: str) -> None:
    tensors = load_file(pair / name)
    tensors["0.bias"][0] += 1
    save_file(tensors, pair / name)
    found = verified(pair)
    assert len(found) == 1
    assert f"the {role}" in found[0]
    assert name in found[0]


def test_another_permutation_is_found(pair: Path) -> None:
    permutation = rc.Permutation.load(pair / "c.permutation.safetensors")
    permutation.inverse().save(pair / "c.permutation.safetensors")
    found = verified(pair)
    assert len(found) == 1
    assert "is not the permutation of the alignment" in found[0]


def test_only_outputs_of_alignments_can_be_verified(pair: Path) -> None:
    first, second = pair / "a.safetensors", pair / "b.safetensors"
    merge_checkpoints([first, first], align=False).write(pair / "m.safetensors")
    apply_to_checkpoint(pair / "c.permutation.safetensors", second, pair / "d.safetensors")
    for name, message in (
        ("m.safetensors", "got that of 'merge'"),
        ("d.safetensors", "got that of 'apply'"),
        ("a.safetensors", "has no record of an alignment"),
    ):
        with pytest.raises(FileFormatError, match=message):
            verify_output(pair / name, first, second)


@pytest.mark.parametrize(
    "record",
    [
        "no JSON",
        "[]",
        "3",
        "{}",
        '{"inputs": 3, "permutations": {}}',
        '{"inputs": [], "permutations": []}',
        '{"command": "align", "inputs": [], "permutations": {}}',
        '{"command": "align", "inputs": [1, 2], "permutations": {}}',
    ],
)
def test_hostile_records_raise_one_error(pair: Path, record: str) -> None:
    tensors = load_file(pair / "c.safetensors")
    save_file(tensors, pair / "c.safetensors", metadata={"rebasin": record})
    with pytest.raises(FileFormatError):
        verified(pair)


def test_a_missing_permutation_is_an_error(pair: Path) -> None:
    (pair / "c.permutation.safetensors").unlink()
    with pytest.raises(FileFormatError, match=r"c\.permutation\.safetensors"):
        verified(pair)


def changed(path: Path, entries: Mapping[str, object]) -> None:
    tensors, before = load_file(path), metadata(path)
    before["rebasin"] = json.dumps({**json.loads(before["rebasin"]), **entries})
    save_file(tensors, path, metadata=before)


def test_digests_without_names_are_problems_and_no_crash(pair: Path) -> None:
    changed(pair / "c.safetensors", {"inputs": [{}, {"sha256": 3}], "permutations": {"other": "x"}})
    assert len(verified(pair)) == 3
