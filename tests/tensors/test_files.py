from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rebasin_core.errors import FileFormatError, StorageError
from rebasin_core.tensors.files import (
    FORMAT,
    is_unfinished,
    read_tensors,
    replacing,
    require_writable,
    without_flushing,
    write_bytes,
    write_json,
    write_tensors,
)
from rebasin_core.tensors.reading import read_json


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.bin"]


def test_an_open_reader_of_the_old_file_is_not_affected(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old content")
    with path.open("rb", buffering=0) as reader:
        assert reader.read(3) == b"old"
        write_bytes(path, b"new")
        # This would fail if the content were written into the old file instead of renaming a new one.
        assert reader.read() == b" content"
    assert path.read_bytes() == b"new"


def test_the_content_is_flushed_before_the_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, Path.replace

    def recorded_fsync(handle: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "content")
        fsync(handle)

    def recorded_rename(self: Path, target: Path) -> Path:
        assert self.read_bytes() == b"whole"
        done.append("name")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, "replace", recorded_rename)
    write_bytes(tmp_path / "x", b"whole")
    assert done == ["content", "name", "folder"]


def test_temporary_files_of_one_folder_are_not_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    with without_flushing(tmp_path):
        write_bytes(tmp_path / "x", b"whole")
        assert not flushed
        write_bytes(tmp_path / "inside" / "x", b"whole")
        assert len(flushed) == 2
    write_bytes(tmp_path / "x", b"again")
    assert len(flushed) == 4


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_only_regular_files_are_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/null")
        case _:
            path.mkdir()
    with pytest.raises(StorageError, match=f"it is a {kind}"):
        write_bytes(path, b"x")
    with pytest.raises(StorageError, match=f"it is a {kind}"):
        require_writable(path)
    assert not path.is_file()
    assert [p.name for p in tmp_path.iterdir()] == [kind]


def test_files_have_default_permissions(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"")
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o666 & ~mask


def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"old": True})
    code = f"""
import resource, torch
from rebasin_core.errors import StorageError
from rebasin_core.tensors.files import write_tensors, write_json
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))
for write in (
    lambda: write_tensors({str(tmp_path / "x.safetensors")!r}, {{"a": torch.zeros(100_000)}}, kind="k", document={{}}),
    lambda: write_json({str(tmp_path / "x.json")!r}, list(range(10_000))),
):
    try:
        write()
    except StorageError as error:
        assert "cannot write" in str(error), error
    else:
        raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert read_json(tmp_path / "x.json") == {"old": True}


def test_a_folder_that_is_not_writable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_json(tmp_path / "file" / "x.json", {})


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x", {"a": torch.ones(2)}, kind="posterior", document={"n": 1})
    tensors, document = read_tensors(tmp_path / "x", kind="posterior")
    assert torch.equal(tensors["a"], torch.ones(2))
    assert document == {"n": 1, "kind": "posterior"}
    with pytest.raises(FileFormatError, match="expected a file of kind 'permutation'"):
        read_tensors(tmp_path / "x", kind="permutation")


def test_pickle_is_never_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(FileFormatError, match="Expected a safetensors file"):
        read_tensors(tmp_path / "x.pt")


def test_tensors_that_share_memory_are_written_separately(tmp_path: Path) -> None:
    shared = torch.arange(3.0)
    write_tensors(tmp_path / "f.safetensors", {"a": shared, "b": shared}, kind="k", document={})
    tensors, _ = read_tensors(tmp_path / "f.safetensors", kind="k")
    assert torch.equal(tensors["a"], tensors["b"])


@pytest.mark.parametrize(
    ("name", "suffix"), [("x.json", ".json"), ("x", ""), ("x" + ".s" * 3, ".s"), ("x." + "s" * 40, "")]
)
def test_temporary_files_are_in_the_folder_of_the_target_with_its_suffix(
    tmp_path: Path, name: str, suffix: str
) -> None:
    target = tmp_path / "new" / "folders" / name
    with replacing(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == (suffix or ".part")
        assert is_unfinished(temporary.name)
        temporary.write_bytes(b"content")
    assert [path.name for path in target.parent.iterdir()] == [name]
    for other in (name, ".rebasin-x.part.two.three", "rebasin-x.part", ".rebasin-.part", ".rebasin-x.part2"):
        assert not is_unfinished(other)


def test_documents_are_written_for_readers(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": [1]})
    assert (tmp_path / "x.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'


def test_files_of_other_programs_have_no_kind(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(2)}, path)
    tensors, document = read_tensors(path)
    assert (tensors["w"].tolist(), document) == ([1.0, 1.0], {"kind": None})
    with pytest.raises(FileFormatError, match="expected a file of kind 'posterior', got unknown"):
        read_tensors(path, kind="posterior")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([1], "is not a JSON object"),
        ({"kind": 3, "format": FORMAT}, "expected a file of a kind that this package writes, got 3"),
        ({"format": FORMAT}, "expected a file of a kind that this package writes, got unknown"),
        ({"kind": "k", "format": "rebasin_core/99"}, f"rebasin_core/99.*{FORMAT}"),
        ({"kind": "k"}, f"None.*{FORMAT}"),
        ({"kind": "k", "format": FORMAT, "document": 3}, "its document is not a JSON object, got 3"),
    ],
)
def test_damaged_headers_are_named(tmp_path: Path, header: object, message: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"rebasin_core": json.dumps(header)})
    with pytest.raises(FileFormatError, match=rf"x\.safetensors'?: .*{message}"):
        read_tensors(path)


def test_a_missing_document_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(2)}, path, metadata={"rebasin_core": json.dumps({"kind": "k", "format": FORMAT})})
    assert read_tensors(path, kind="k")[1] == {"kind": "k"}


@pytest.mark.skipif(not Path("/proc").exists(), reason="no file system in which nobody can create files")
def test_a_path_without_an_existing_parent_is_checked_in_the_nearest_folder(tmp_path: Path) -> None:
    require_writable(tmp_path / "new" / "folders" / "x")
    assert not list(tmp_path.iterdir())
    with pytest.raises(StorageError, match=r"cannot write '?/proc/new/x'?: /proc: .+\. Choose another path"):
        require_writable("/proc/new/x")
    with pytest.raises(StorageError, match=r"cannot write .*: .*(too long|name).*\. Choose another path"):
        require_writable(tmp_path / ("x" * 300))
