"""Outputs never replace inputs, nor other files without `force`, and are written completely or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import rebasin_core as rc
from rebasin_core.api.checkpoints import CheckpointAlignment
from rebasin_core.errors import InvalidInputError, StorageError
from tests.api.checkpoints.networks import MLP, noisy, write


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CheckpointAlignment]:
    """A folder with a reference file and a candidate folder, and their alignment."""
    folder = tmp_path_factory.mktemp("pair")
    write(folder / "a.safetensors", MLP.network())
    (folder / "b").mkdir()
    write(folder / "b" / "model.safetensors", MLP.permuted(noisy(MLP.network(), 0.02), MLP.orders()))
    (folder / "b" / "config.json").write_text("{}")
    found = rc.align_checkpoints(folder / "a.safetensors", folder / "b", model=MLP.source, chance=False)
    return folder, found


@pytest.fixture
def pair(original: tuple[Path, CheckpointAlignment]) -> Generator[tuple[Path, CheckpointAlignment]]:
    """The pair; after the test, its files have to be those from before, and only new ones are removed."""
    folder, found = original
    before = contents(folder)
    yield folder, found
    after = contents(folder)
    assert {name: after.get(name) for name in before} == before
    for path in folder.iterdir():
        if path.name not in {"a.safetensors", "b"}:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def largest_file(size: int) -> Generator[None]:
    """Limit the size of files, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "output",
    ["a.safetensors", "b", "b/model.safetensors", "b/../b", "link.safetensors", "hard.safetensors", "to_b", "."],
)
def test_inputs_are_never_replaced(pair: tuple[Path, CheckpointAlignment], output: str, *, force: bool) -> None:
    folder, found = pair
    (folder / "link.safetensors").symlink_to(folder / "a.safetensors")
    (folder / "hard.safetensors").hardlink_to(folder / "b" / "model.safetensors")
    (folder / "to_b").symlink_to(folder / "b")
    before = contents(folder)
    with pytest.raises(StorageError, match=r"is also an input|is not a file of a checkpoint"):
        found.write(folder / output, force=force)
    assert contents(folder) == before


def test_no_output_is_written_into_the_folder_of_an_input(pair: tuple[Path, CheckpointAlignment]) -> None:
    folder, found = pair
    for output in ("b/c.safetensors", "b/c", "b/deep/c.safetensors"):
        with pytest.raises(StorageError, match="is in the folder of an input"):
            found.write(folder / output, force=True)
    assert not (folder / "b" / "deep").exists()


def test_the_permutation_does_not_replace_an_input(original: tuple[Path, CheckpointAlignment], tmp_path: Path) -> None:
    folder, _ = original
    candidate = shutil.copy(folder / "b" / "model.safetensors", tmp_path / "c.permutation.safetensors")
    before = Path(candidate).read_bytes()
    found = rc.align_checkpoints(folder / "a.safetensors", candidate, model=MLP.source, chance=False)
    for force in (False, True):
        with pytest.raises(StorageError, match=r"c\.permutation\.safetensors is also an input"):
            found.write(tmp_path / "c.safetensors", force=force)
    assert Path(candidate).read_bytes() == before
    assert not (tmp_path / "c.safetensors").exists()


@pytest.mark.parametrize("occupied", ["c.safetensors", "c.permutation.safetensors", "c"])
def test_existing_files_are_replaced_only_with_force(pair: tuple[Path, CheckpointAlignment], occupied: str) -> None:
    folder, found = pair
    output = folder / ("c" if occupied == "c" else "c.safetensors")
    if occupied == "c":
        (folder / "c").mkdir()
        write(folder / "c" / "model.safetensors", {"mine": torch.ones(1)})
        (folder / "c" / "notes.txt").write_text("mine")
    else:
        (folder / occupied).write_text("mine")
    before = contents(folder)
    with pytest.raises(StorageError, match="exists; choose another output"):
        found.write(output)
    assert contents(folder) == before
    found.write(output, force=True)
    after = load_file(output / "model.safetensors" if occupied == "c" else output)
    assert after.keys() == MLP.network().keys()
    assert not (folder / "c" / "notes.txt").exists()


@pytest.mark.parametrize("content", ["thesis.tex", "notes.txt", "code.py", "model.safetensors/deep", ".git/config"])
def test_folders_of_other_content_are_never_replaced(pair: tuple[Path, CheckpointAlignment], content: str) -> None:
    folder, found = pair
    path = folder / "c" / content
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(StorageError, match=r"cannot (replace the folder|write)"):
        found.write(folder / "c", force=True)
    assert path.read_text() == "mine"


def test_an_empty_folder_may_be_replaced(pair: tuple[Path, CheckpointAlignment]) -> None:
    folder, found = pair
    (folder / "c").mkdir()
    found.write(folder / "c", force=True)
    assert {path.name for path in (folder / "c").iterdir()} == {
        "config.json",
        "model.safetensors",
        "rebasin_permutation.safetensors",
    }


def test_a_link_at_the_output_is_replaced_and_its_target_is_not(
    pair: tuple[Path, CheckpointAlignment], tmp_path: Path
) -> None:
    folder, found = pair
    (tmp_path / "other").write_text("mine")
    (folder / "c.safetensors").symlink_to(tmp_path / "other")
    with pytest.raises(StorageError, match="exists"):
        found.write(folder / "c.safetensors")
    found.write(folder / "c.safetensors", force=True)
    assert (tmp_path / "other").read_text() == "mine"
    assert not (folder / "c.safetensors").is_symlink()


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ("c.pt", InvalidInputError, "outputs are safetensors files"),
        ("a.safetensors/c.safetensors", StorageError, "cannot write"),
        ("c\0.safetensors", StorageError, "cannot write"),
        (f"{'c' * 300}.safetensors", StorageError, "cannot write"),
    ],
)
def test_impossible_paths_raise_one_error(
    pair: tuple[Path, CheckpointAlignment], output: str, error: type[Exception], message: str
) -> None:
    folder, found = pair
    before = contents(folder)
    with pytest.raises(error, match=message):
        found.write(folder / output)
    assert contents(folder) == before


@pytest.mark.parametrize("output", ["c.safetensors", "c"])
def test_a_full_disk_leaves_no_files(pair: tuple[Path, CheckpointAlignment], output: str) -> None:
    folder, found = pair
    before = contents(folder)
    for size in (64, 1500):  # of the permutation, of the tensors
        with largest_file(size), pytest.raises(StorageError, match="cannot write"):
            found.write(folder / output)
        assert contents(folder) == before
        assert {path.name for path in folder.iterdir()} == {"a.safetensors", "b"}
    found.write(folder / output)


@pytest.mark.parametrize("output", ["c.safetensors", "c"])
def test_an_interruption_leaves_the_existing_output(
    pair: tuple[Path, CheckpointAlignment], output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, found = pair
    found.write(folder / output)
    before = contents(folder)
    names: list[str] = []

    def interrupted(_: CheckpointAlignment, name: str) -> torch.Tensor:
        names.append(name)
        if len(names) == 4:
            raise KeyboardInterrupt
        return torch.zeros_like(MLP.network()[name])

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointAlignment, "tensor", interrupted)
        with pytest.raises(KeyboardInterrupt):
            found.write(folder / output, force=True)
    assert len(names) == 4
    assert contents(folder) == before
    assert {path.name for path in folder.iterdir()} - {"c.permutation.safetensors"} == {"a.safetensors", "b", output}


@pytest.mark.parametrize("output", ["c.safetensors", "c"])
def test_bytes_depend_only_on_the_content(pair: tuple[Path, CheckpointAlignment], output: str) -> None:
    folder, found = pair
    files = found.write(folder / output)
    first = [path.read_bytes() for path in files]
    assert [path.read_bytes() for path in found.write(folder / output, force=True)] == first


def test_the_metadata_state_inputs_method_and_permutation(pair: tuple[Path, CheckpointAlignment]) -> None:
    folder, found = pair
    found.write(folder / "c.safetensors")
    with safe_open(folder / "c.safetensors", framework="pt") as handle:
        metadata = handle.metadata()
    assert metadata["format"] == "pt"
    record = json.loads(metadata["rebasin"])

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()

    assert record["inputs"] == [
        {"path": "a.safetensors", "sha256": {"a.safetensors": digest(folder / "a.safetensors")}},
        {"path": "b", "sha256": {"model.safetensors": digest(folder / "b" / "model.safetensors")}},
    ]
    assert record["permutations"] == {"c.permutation.safetensors": digest(folder / "c.permutation.safetensors")}
    assert record["command"] == "align"
    assert record["version"] == version("rebasin-core")
    assert record["matcher"]["name"] == "weight"
    assert str(folder) not in metadata["rebasin"]


def test_outputs_have_the_permissions_of_new_files(pair: tuple[Path, CheckpointAlignment]) -> None:
    folder, found = pair
    before = os.umask(0o027)
    try:
        files = found.write(folder / "c.safetensors")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in files] == [0o640] * 2
