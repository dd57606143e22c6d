"""The laws of checkpoint readers. Their examples are pairs: a reader, and the path of a small file or folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rebasin_core.checkpoints.base import HEAD_BYTES, CheckpointReader
from rebasin_core.errors import RebasinError
from rebasin_core.tensors.digests import digest_of_file, digest_of_tensors
from rebasin_core.testing.law import expect, law, seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRUNCATIONS = 8
_OTHER_FILES: dict[str, bytes] = {
    "empty": b"",
    "text": b"weights of the network\n" * 20,
    "html": b"<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>",
    "json": json.dumps({"architectures": ["LlamaForCausalLM"], "hidden_size": 8}).encode(),
    "random": bytes(torch.randint(256, (5000,), generator=seeded()).tolist()),
}


@law("checkpoint_reader")
def recognition(example: object, folder: Path) -> None:
    """The examples are recognized under any name; other files are not, and no input raises an error."""
    reader, path = _parts(example)
    renamed = folder / "renamed to another.suffix"
    if path.is_dir():
        shutil.copytree(path, renamed)
    else:
        shutil.copyfile(path, renamed)
    for given in (path, renamed):
        expect(reader.recognizes(given, _head(given)), f"{reader.name} does not recognize its example {given.name}")
    empty = folder / "empty folder"
    empty.mkdir()
    expect(not reader.recognizes(empty, b""), f"{reader.name} recognizes an empty folder")
    for name, content in _OTHER_FILES.items():
        other = folder / f"{name}{path.suffix}"
        other.write_bytes(content)
        expect(not reader.recognizes(other, content[:HEAD_BYTES]), f"{reader.name} recognizes a file of kind {name}")


@law("checkpoint_reader")
def content(example: object, folder: Path) -> None:
    """Two readings are equal, name the reader as their format, and have the files and digests on the disk."""
    del folder
    reader, path = _parts(example)
    first, second = reader.read(path), reader.read(path)
    expect(first.format == reader.name, f"expected the format {reader.name!r}, got {first.format!r}")
    expect(digest_of_tensors(first.tensors) == digest_of_tensors(second.tensors), "two readings have different tensors")
    expect(first.shards.keys() == first.tensors.keys(), "the shards do not have the names of the tensors")
    names = {file.name for file in first.files}
    expect(set(first.shards.values()) <= names, f"shards {sorted(set(first.shards.values()))}, files {sorted(names)}")
    expected = {file.name: digest_of_file(file) for file in first.files}
    expect(first.digests() == expected, f"expected the digests {expected}, got {first.digests()}")
    size = sum(len(tensor.contiguous().view(-1).view(torch.uint8)) for tensor in first.tensors.values())
    expect(first.num_bytes == size, f"expected {size} bytes, got {first.num_bytes}")


@law("checkpoint_reader")
def private_maps(example: object, folder: Path) -> None:
    """Reading changes no file, nor do in-memory changes of tensors."""
    del folder
    reader, path = _parts(example)
    before = {file: digest_of_file(file) for file in _files(path)}
    for tensor in reader.read(path).tensors.values():
        tensor.zero_()
    expect({file: digest_of_file(file) for file in _files(path)} == before, "a file was changed")


@law("checkpoint_reader")
def damage(example: object, folder: Path) -> None:
    """Truncated files cause no error other than a `RebasinError`."""
    reader, path = _parts(example)
    for file in _files(path):
        whole = file.read_bytes()
        for step in range(_TRUNCATIONS):
            target = folder / f"{file.name}-{step}"
            damaged = _copy_with(path, file, whole[: len(whole) * step // _TRUNCATIONS], target)
            try:
                for tensor in reader.read(damaged).tensors.values():
                    tensor.view(-1).sum()
            except RebasinError:
                continue


@law("checkpoint_reader")
def canonical(example: object, folder: Path) -> None:
    """A reader that is read back from its canonical JSON is equal."""
    del folder
    reader, _ = _parts(example)
    found = type(reader).model_validate_json(reader.canonical_json())
    expect(found == reader, f"expected {reader}, got {found}")


def _parts(example: object) -> tuple[CheckpointReader, Path]:
    """Return the reader and the path of an example."""
    match example:
        case (CheckpointReader() as reader, Path() as path):
            return reader, path
        case _:
            expect(
                condition=False,
                message=f"{example}: expected pairs of a reader and a path; return them from `rebasin_examples`",
            )
            raise TypeError


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(path.iterdir())
    else:
        yield path


def _head(path: Path) -> bytes:
    return b"" if path.is_dir() else path.read_bytes()[:HEAD_BYTES]


def _copy_with(path: Path, file: Path, content: bytes, target: Path) -> Path:
    """Return a copy of a file or folder in which one file has another content."""
    if path.is_dir():
        shutil.copytree(path, target)
        (target / file.name).write_bytes(content)
    else:
        target.write_bytes(content)
    return target
