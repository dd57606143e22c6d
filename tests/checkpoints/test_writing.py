from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rebasin_core.checkpoints.writing import INDEX, TensorInfo, require_output, shards_of, write_checkpoint
from rebasin_core.errors import InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

DTYPES = (
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.complex64,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint64,
    torch.uint32,
    torch.uint16,
    torch.uint8,
    torch.bool,
)


def every_dtype() -> dict[str, Tensor]:
    """Return tensors of all dtypes, with a scalar, an empty tensor, a view and names outside ASCII."""
    tensors = {
        f"layer.{number}.{str(dtype).removeprefix('torch.')}": (torch.arange(6).reshape(2, 3) % 2).to(dtype)
        for number, dtype in enumerate(DTYPES)
    }
    extra = {
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 4),
        "größe": torch.randn(5),
        "view": torch.randn(4, 3).T,
    }
    return {**tensors, **extra}


def write(path: Path, tensors: Mapping[str, Tensor], **options: object) -> tuple[Path, ...]:
    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    return write_checkpoint(path, infos, tensors.__getitem__, **options)  # type: ignore[arg-type]


def test_the_bytes_are_those_of_the_reference_implementation(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in every_dtype().items()}
    assert write(tmp_path / "x.safetensors", tensors) == (tmp_path / "x.safetensors",)
    save_file(tensors, tmp_path / "expected.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()


def test_all_dtypes_and_the_metadata_are_read_by_safetensors(tmp_path: Path) -> None:
    tensors = every_dtype()
    file = tmp_path / "x.safetensors"
    write(file, tensors, metadata={"rebasin": '{"a": "ä"}'})
    found = load_file(file)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name].reshape(-1).view(torch.uint8), tensor.contiguous().reshape(-1).view(torch.uint8))
    with safe_open(file, framework="pt") as handle:
        assert handle.metadata() == {"format": "pt", "rebasin": '{"a": "ä"}'}


def test_a_folder_has_shards_an_index_and_the_other_files(tmp_path: Path) -> None:
    tensors = {f"layer.{number}.weight": torch.randn(10, 10) for number in range(7)}
    config = tmp_path / "config.json"
    config.write_text("{}")
    produced: list[str] = []
    files = write(tmp_path / "model", tensors, max_shard_bytes=1000, companions=[config], progress=produced.append)
    index = json.loads((tmp_path / "model" / INDEX).read_text())
    assert index["metadata"] == {"total_size": 7 * 400}
    assert [file.name for file in files] == [f"model-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]
    assert set(index["weight_map"].values()) == {file.name for file in files}
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / "model" / file)[name], tensors[name])
    assert produced == list(tensors)
    assert (tmp_path / "model" / "config.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model"]


def test_one_shard_has_the_usual_name_and_an_existing_folder_is_replaced(tmp_path: Path) -> None:
    tensors = {"w": torch.randn(3)}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.safetensors").write_text("x")
    (tmp_path / "model" / "config.json").write_text("{}")
    assert write(tmp_path / "model", tensors) == (tmp_path / "model" / "model.safetensors",)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_shards_keep_the_order_and_the_limit() -> None:
    infos = {f"{number}": TensorInfo(torch.uint8, (size,)) for number, size in enumerate((5, 5, 20, 1, 9, 1))}
    assert shards_of(infos, 10) == [["0", "1"], ["2"], ["3", "4"], ["5"]]
    assert shards_of({}, 10) == [[]]


@pytest.mark.parametrize("name", ["x.safetensors", "folder"])
@pytest.mark.parametrize("with_work", [True, False])
def test_a_failure_leaves_the_old_output_and_no_leftovers(tmp_path: Path, name: str, *, with_work: bool) -> None:
    target = tmp_path / name
    write(target, {"w": torch.ones(2)})
    work = tmp_path / "work" if with_work else None

    def fail(name: str) -> Tensor:
        if name == "b":
            raise KeyboardInterrupt
        return torch.zeros(2)

    infos = {"a": TensorInfo(torch.float32, (2,)), "b": TensorInfo(torch.float32, (2,))}
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(target, infos, fail, work=work)
    file = target if target.is_file() else target / "model.safetensors"
    assert torch.equal(load_file(file)["w"], torch.ones(2))
    left = {path.name for path in tmp_path.rglob("*")} - {name, "model.safetensors", "work"}
    assert not left


def test_wrong_tensors_and_dtypes_are_errors(tmp_path: Path) -> None:
    infos = {"w": TensorInfo(torch.float32, (2,))}
    for wrong in (torch.zeros(3), torch.zeros(2).double()):
        with pytest.raises(InvalidInputError, match=r"expected torch\.float32"):
            write_checkpoint(tmp_path / "x.safetensors", infos, {"w": wrong}.__getitem__)
    with pytest.raises(InvalidInputError, match="complex128"):
        write_checkpoint(
            tmp_path / "x.safetensors", {"w": TensorInfo(torch.complex128, (2,))}, lambda _: torch.zeros(2)
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".npz", ".gguf"])
def test_names_of_other_formats_are_errors(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InvalidInputError, match=r"out\.safetensors"):
        require_output(tmp_path / f"out{suffix}")


def test_outputs_that_cannot_be_written_are_errors(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.safetensors").mkdir()
    for path in (tmp_path / "file", tmp_path / "folder.safetensors", tmp_path / "file" / "x.safetensors"):
        with pytest.raises(StorageError):
            require_output(path)


def test_new_files_have_the_default_permissions(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        write(tmp_path / "x.safetensors", {"w": torch.ones(2)})
        write(tmp_path / "folder", {"w": torch.ones(2)})
    finally:
        os.umask(mask)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def test_folders_with_other_files_are_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "model", {"w": torch.ones(2)})
    (tmp_path / "model" / "thesis.tex").write_text("x")
    with pytest.raises(StorageError, match=r"contains 'thesis.tex', which is not a file of a checkpoint"):
        write(tmp_path / "model", {"w": torch.zeros(2)})
    assert torch.equal(load_file(tmp_path / "model" / "model.safetensors")["w"], torch.ones(2))


def test_the_free_space_is_checked_before_tensors_are_computed(tmp_path: Path) -> None:
    infos = {"w": TensorInfo(torch.float32, (10**14,))}
    produced: list[str] = []

    def produce(name: str) -> Tensor:
        produced.append(name)
        return torch.zeros(1)

    with pytest.raises(StorageError, match=r"needs 400000.00 GB, and \d+.\d\d GB of its disk are free"):
        write_checkpoint(tmp_path / "x.safetensors", infos, produce)
    assert not produced
    assert not list(tmp_path.iterdir())
