"""Planted permutations in files of all formats and dtypes are found, and outputs are the permuted candidates."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import rebasin_core as rc
from rebasin_core.api.checkpoints import CheckpointAlignment, Relation
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.errors import InvalidInputError, SpecError
from tests.api.checkpoints.networks import CASES, MLP, TIED, Case, Tensors, noisy, write

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def aligned(case: Case, reference: Path, candidate: Path, **options: object) -> CheckpointAlignment:
    return rc.align_checkpoints(reference, candidate, model=case.source, **options)  # type: ignore[arg-type]


def converted(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> Tensors:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Files of an MLP and of a permuted, noisy copy."""
    return planted(MLP, tmp_path)[:2]


def planted(case: Case, folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Path, Path, Tensors, Tensors]:
    """Write a network and a permuted noisy copy; return the files, the copy before it was permuted, and the copy."""
    reference = case.network()
    copy = converted(noisy(reference, 0.02), dtype)
    candidate = case.permuted(copy, case.orders())
    files = write(folder / "a.safetensors", converted(reference, dtype)), write(folder / "b.safetensors", candidate)
    return *files, copy, candidate


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_planted_permutation_is_found_in_every_dtype(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    case = CASES[name]
    first, second, copy, candidate = planted(case, tmp_path, dtype)
    # The table of symmetries is that of the network, and it was permuted.
    torch.testing.assert_close(case.outputs(candidate), case.outputs(copy), rtol=1e-9, atol=1e-9)
    assert not equal(candidate, copy)
    found = aligned(case, first, second)
    found.write(tmp_path / "c.safetensors")
    output = load_file(tmp_path / "c.safetensors")
    assert equal(output, copy)
    torch.testing.assert_close(case.outputs(output), case.outputs(candidate), rtol=1e-9, atol=1e-9)
    assert found.verdict.relation is Relation.RELATED
    assert found.function is not None
    assert found.function.is_kept
    assert "function kept" in found.report()


def test_every_tensor_keeps_its_own_dtype_and_the_values_of_others_do_not_matter(tmp_path: Path) -> None:
    copy = noisy(MLP.network(), 0.02)
    mixed = {name: tensor.to(DTYPES[number % 4]) for number, (name, tensor) in enumerate(copy.items())}
    candidate = MLP.permuted(mixed, MLP.orders())
    first = write(tmp_path / "a.safetensors", MLP.network())
    second = write(tmp_path / "b.safetensors", candidate)
    aligned(MLP, first, second).write(tmp_path / "c.safetensors")
    assert equal(load_file(tmp_path / "c.safetensors"), mixed)


def test_the_dtype_of_the_output_can_be_chosen(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = aligned(MLP, *pair)
    found.write(tmp_path / "c.safetensors")
    found.write(tmp_path / "half.safetensors", dtype=torch.bfloat16)
    expected = converted(load_file(tmp_path / "c.safetensors"), torch.bfloat16)
    assert equal(load_file(tmp_path / "half.safetensors"), expected)


def test_formats_can_be_mixed(tmp_path: Path) -> None:
    reference = MLP.network()
    copy = noisy(reference, 0.02)
    candidate = MLP.permuted(copy, MLP.orders())
    np.savez(tmp_path / "a.npz", **{name: tensor.numpy() for name, tensor in reference.items()})  # type: ignore[arg-type]  # keywords
    torch.save({"epoch": 3, "state_dict": candidate, "optimizer": {"state": {}}}, tmp_path / "b.ckpt")
    found = aligned(MLP, tmp_path / "a.npz", tmp_path / "b.ckpt")
    found.write(tmp_path / "c.safetensors")
    assert equal(load_file(tmp_path / "c.safetensors"), copy)
    assert found.candidate.checkpoint.format == "torch"


def sharded(folder: Path, tensors: Tensors, others: Mapping[str, str]) -> Path:
    """Write a folder with two shards."""
    folder.mkdir()
    names = [*tensors]
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
    where = {name: file for file, own in shards.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    for name, text in others.items():
        (folder / name).write_text(text)
    return folder


def test_folders_with_shards_give_folders_with_the_other_files(tmp_path: Path) -> None:
    copy = noisy(MLP.network(), 0.02)
    candidate = MLP.permuted(copy, MLP.orders())
    first = write(tmp_path / "a.safetensors", MLP.network())
    others = {"config.json": '{"width": 16}', "tokenizer.json": "{}", "README.md": "A card.", "vocab.txt": "a\nb\n"}
    second = sharded(tmp_path / "b", candidate, others)
    (second / "training_args.bin").write_bytes(b"code")
    files = aligned(MLP, first, second).write(tmp_path / "c", max_shard_bytes=600)
    index = json.loads((tmp_path / "c" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert {path.name for path in files} == {*index["weight_map"].values(), "rebasin_permutation.safetensors"}
    output: Tensors = {}
    for file in set(index["weight_map"].values()):
        output |= load_file(tmp_path / "c" / file)
        with safe_open(tmp_path / "c" / file, framework="pt") as handle:
            assert handle.metadata()["format"] == "pt"
    assert equal(output, {name: copy[name] for name in output})
    assert output.keys() == copy.keys()
    assert {name: (tmp_path / "c" / name).read_text() for name in others} == others
    assert not (tmp_path / "c" / "training_args.bin").exists()


def test_links_and_special_files_in_a_folder_are_safe(tmp_path: Path) -> None:
    copy = noisy(MLP.network(), 0.02)
    first = write(tmp_path / "a.safetensors", MLP.network())
    second = sharded(tmp_path / "b", copy, {})
    (tmp_path / "blob").write_text("{}")
    (second / "config.json").symlink_to(tmp_path / "blob")  # as in caches of downloads
    (second / "endless.json").symlink_to("/dev/zero")
    (second / "dangling.json").symlink_to(tmp_path / "absent")
    (second / "folder.json").mkdir()
    os.mkfifo(second / "pipe.json")
    with (second / "huge.json").open("wb") as handle:
        handle.truncate(2**40)  # sparse
    aligned(MLP, first, second).write(tmp_path / "c")
    assert not (tmp_path / "c" / "config.json").is_symlink()
    assert (tmp_path / "c" / "config.json").read_text() == "{}"
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert names == {"config.json", "model.safetensors", "rebasin_permutation.safetensors"}


@pytest.mark.parametrize("kept", [("embedding.weight",), ("head.weight",), ("embedding.weight", "head.weight")])
def test_tied_weights_are_written_under_the_names_of_the_file(tmp_path: Path, kept: tuple[str, ...]) -> None:
    first, _, copy, candidate = planted(TIED, tmp_path)
    names = {"embedding.weight", "head.weight"} - set(kept)
    second = write(tmp_path / "b2.safetensors", {name: candidate[name] for name in candidate if name not in names})
    aligned(TIED, first, second).write(tmp_path / "c.safetensors")
    assert equal(load_file(tmp_path / "c.safetensors"), {name: copy[name] for name in copy if name not in names})


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.module."])
def test_prefixes_are_removed_and_restored(tmp_path: Path, prefix: str) -> None:
    first, _, copy, candidate = planted(MLP, tmp_path)
    second = write(tmp_path / "b2.safetensors", {prefix + name: tensor for name, tensor in candidate.items()})
    aligned(MLP, first, second).write(tmp_path / "c.safetensors")
    assert equal(load_file(tmp_path / "c.safetensors"), {prefix + name: tensor for name, tensor in copy.items()})
    with pytest.raises(InvalidInputError, match="none of the 6 tensors"):
        aligned(MLP, first, second, names=NamePolicy(mode="strict"))


def test_one_of_two_networks_in_a_file_is_chosen_by_its_prefix(tmp_path: Path) -> None:
    first, _, copy, candidate = planted(MLP, tmp_path)
    teacher = {f"teacher.{name}": tensor for name, tensor in MLP.network(seed=7).items()}
    student = {f"student.{name}": tensor for name, tensor in candidate.items()}
    second = write(tmp_path / "b2.safetensors", {**teacher, **student})
    with pytest.raises(InvalidInputError, match="student"):
        aligned(MLP, first, second)
    found = aligned(MLP, first, second, names=NamePolicy(prefix="student."))
    found.write(tmp_path / "c.safetensors")
    expected = {**teacher, **{f"student.{name}": tensor for name, tensor in copy.items()}}
    assert equal(load_file(tmp_path / "c.safetensors"), expected)
    assert "Copied unchanged, because the model does not have them: " in found.report()
    assert "`teacher.2.weight` [12, 16]" in found.report()
    assert found.as_json()["copied"]["teacher.2.weight"] == [12, 16]


def test_extra_tensors_are_copied_and_large_ones_are_named(tmp_path: Path) -> None:
    first, _, copy, candidate = planted(MLP, tmp_path)
    extra = {"head.weight": torch.randn(9, 12), "steps": torch.tensor(7), "scale": torch.ones(1)}
    second = write(tmp_path / "b2.safetensors", {**candidate, **extra})
    found = aligned(MLP, first, second)
    found.write(tmp_path / "c.safetensors")
    assert equal(load_file(tmp_path / "c.safetensors"), {**copy, **extra})
    assert "Copied unchanged, because the model does not have them: `head.weight` [9, 12]. If" in found.report()
    assert found.as_json()["copied"] == {"head.weight": [9, 12]}
    skipping = aligned(MLP, first, second, names=NamePolicy(extra="skip"))
    skipping.write(tmp_path / "d.safetensors")
    assert equal(load_file(tmp_path / "d.safetensors"), copy)
    assert "Copied unchanged" not in skipping.report()
    assert "Copied unchanged" not in aligned(MLP, first, tmp_path / "b.safetensors").report()


def test_frozen_tensors_are_not_permuted(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = aligned(MLP, *pair, freeze=("0.*",))
    found.write(tmp_path / "c.safetensors")
    candidate, output = load_file(pair[1]), load_file(tmp_path / "c.safetensors")
    assert torch.equal(output["0.weight"], candidate["0.weight"])
    assert not torch.equal(output["4.weight"], candidate["4.weight"])
    torch.testing.assert_close(MLP.outputs(output), MLP.outputs(candidate))


def test_a_wrong_specification_is_rejected(pair: tuple[Path, Path], tmp_path: Path) -> None:
    right = rc.trace_spec(MLP.kind(), MLP.batch())
    rc.save_spec(right, tmp_path / "spec.json")
    document = json.loads((tmp_path / "spec.json").read_text())
    document.pop("symmetry")  # its slots would contradict the wrong axes
    text = json.dumps(document)
    wrong = text.replace(json.dumps(document["axes"]["4.weight"]), json.dumps("4, 12"))
    assert wrong != text
    (tmp_path / "wrong.json").write_text(wrong)
    with pytest.raises(SpecError, match="changes the function"):
        aligned(MLP, *pair, spec=tmp_path / "wrong.json")
    found = aligned(MLP, *pair, spec=tmp_path / "spec.json")
    assert found.function is not None
    assert found.function.is_kept


def test_without_a_model_the_check_has_to_be_skipped(pair: tuple[Path, Path], tmp_path: Path) -> None:
    spec = rc.trace_spec(MLP.kind(), MLP.batch())
    with pytest.raises(InvalidInputError, match="skip the check"):
        rc.align_checkpoints(*pair, spec=spec)
    found = rc.align_checkpoints(*pair, spec=spec, check=False)
    found.write(tmp_path / "c.safetensors")
    candidate, output = load_file(pair[1]), load_file(tmp_path / "c.safetensors")
    torch.testing.assert_close(MLP.outputs(output), MLP.outputs(candidate))
    assert found.function is None
    with pytest.raises(InvalidInputError, match="expected the model"):
        found.module()


def test_integer_weights_are_rejected(tmp_path: Path) -> None:
    tensors = {
        name: (50 * tensor).round().to(torch.int8) if tensor.dim() == 2 else tensor
        for name, tensor in MLP.network().items()
    }
    first = write(tmp_path / "a.safetensors", tensors)
    with pytest.raises(InvalidInputError, match="int8"):
        aligned(MLP, first, first)


def test_the_alignment_is_as_far_from_the_reference_as_numpy_says(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = aligned(MLP, *pair)
    found.write(tmp_path / "c.safetensors")

    def distance(first: Path, second: Path) -> float:
        flat = [
            np.concatenate([tensor.double().numpy().ravel() for _, tensor in sorted(load_file(path).items())])
            for path in (first, second)
        ]
        scale = sum(float(vector @ vector) for vector in flat) / 2
        return float(np.linalg.norm(flat[0] - flat[1]) / np.sqrt(scale))

    record = found.as_json()
    assert record["total"]["distance_before"] == pytest.approx(distance(*pair), rel=1e-5)
    assert record["total"]["distance_after"] == pytest.approx(distance(pair[0], tmp_path / "c.safetensors"), rel=1e-5)
    assert record["total"]["size"] == sum(tensor.numel() for tensor in load_file(pair[0]).values())
    assert record["coverage"] == pytest.approx(1 - 4 / record["total"]["size"])  # all but the last bias
    assert sorted(group["units"] for group in record["groups"].values()) == [12, 16]
    json.dumps(record, allow_nan=False)


def test_json_has_no_nan_for_networks_of_zeros(tmp_path: Path) -> None:
    zeros = {name: torch.zeros_like(tensor) for name, tensor in MLP.network().items()}
    first = write(tmp_path / "a.safetensors", zeros)
    record = aligned(MLP, first, first).as_json()
    json.dumps(record, allow_nan=False)
    assert record["total"]["distance_after"] is None
    assert record["relation"] == "equal"
