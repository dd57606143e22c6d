"""Many writers, killed writers, full disks, and garbage collection during writes."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebasin_core.errors import StorageError
from rebasin_core.studies.store import Store, collect_garbage, verify_store

HAMMER = Path(__file__).with_name("hammer.py")
STAGE = {"kind": "train", "options": {}}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def hammered(*arguments: str) -> list[str]:
    """Run the script, and return the words that it prints."""
    command = [sys.executable, str(HAMMER), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout.split()


def test_many_writers_of_the_same_artifacts(store: Store) -> None:
    count, leftovers, *rest = hammered("together", store.address)
    assert (count, leftovers) == ("24", "0")
    assert rest == ["True", "True", "0", "0"]


@pytest.mark.nightly
@pytest.mark.slow
def test_killed_writers_leave_no_half_artifacts_and_their_leftovers_are_removed(store: Store) -> None:
    count, leftovers, *rest = hammered("killed", store.address, "40")
    assert int(count) > 0
    assert int(leftovers) > 0  # of 80 processes, some were killed while they wrote
    assert rest == ["True", "True", "0", "0"]


def is_clean(store: Store) -> bool:
    """Whether there is no damage and no temporary file."""
    return verify_store(store).passed and not list(Path(store.address).rglob("*.part"))


@pytest.mark.parametrize("failing", range(4))
def test_a_full_disk_leaves_the_store_as_it_was(
    store: Store, source: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Two files and a record, each flushed with its folder: the disk is full at one of them."""
    before = store.write({"kind": "data"}, {}, {}, {})
    other = source.with_name("other.bin")
    other.write_bytes(b"other")
    calls = iter(range(100))
    flush = os.fsync

    def full(handle: int) -> None:
        if not Path(f"/proc/self/fd/{handle}").is_dir() and next(calls) == failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(handle)

    monkeypatch.setattr(os, "fsync", full)
    if failing < 3:
        with pytest.raises(StorageError, match="No space left on device"):
            store.write(STAGE, {}, {"a.bin": source, "b.bin": other}, {})
        assert store.ids() == {before.id}
    else:
        store.write(STAGE, {}, {"a.bin": source, "b.bin": other}, {})
    monkeypatch.undo()
    assert is_clean(store)
    artifact = store.write(STAGE, {}, {"a.bin": source, "b.bin": other}, {})
    assert store.ids() == {before.id, artifact.id}
    assert is_clean(store)


def test_a_limit_of_the_system_on_the_size_of_files(store: Store, source: Path) -> None:
    small = store.write(STAGE, {}, {}, {})
    source.write_bytes(b"x" * 5_000_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(StorageError, match="Check the free space"):
            store.write({"kind": "x"}, {}, {"w.bin": source}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert store.ids() == {small.id}
    assert is_clean(store)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"file systems cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, source: Path) -> None:
    store = Store.open(small_disk / "store")
    source.write_bytes(b"x" * 300_000)
    first = store.write(STAGE, {}, {"w.bin": source}, {})
    source.write_bytes(b"y" * 900_000)
    with pytest.raises(StorageError, match="No space left on device"):
        store.write({"kind": "x"}, {}, {"w.bin": source}, {})
    assert store.ids() == {first.id}
    assert is_clean(store)
    source.write_bytes(b"z" * 300_000)
    assert store.write({"kind": "x"}, {}, {"w.bin": source}, {}).id in store.ids()


def test_folders_without_permission(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(StorageError, match="Permission denied"):
        store.write(STAGE, {}, {}, {})


def age(path: Path, seconds: float) -> None:
    status = path.stat()
    os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))


def blob(store: Store) -> Path:
    return next(path for path in (Path(store.address) / "blobs").rglob("*") if path.is_file())


def test_recent_objects_are_kept(store: Store, source: Path) -> None:
    artifact = store.write(STAGE, {}, {"w.bin": source}, {})
    assert collect_garbage(store, grace=100).size == 0
    record = Path(store.address) / "records" / artifact.id[:2] / f"{artifact.id}.json"
    age(record, 200)
    assert collect_garbage(store, grace=100).artifacts == (artifact.id,)
    assert blob(store).exists()  # more recent than its record
    age(blob(store), 200)
    assert collect_garbage(store, grace=100).files == (artifact.files["w.bin"].sha256,)


def test_a_file_that_a_writer_reuses_is_kept(store: Store, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer has marked the file as used, and its record is not written yet, during the collection."""
    store.remove(store.write(STAGE, {}, {"w.bin": source}, {}).id)
    age(blob(store), 200)
    file = store.storage.put_blob(source)
    assert collect_garbage(store, grace=100).files == ()
    assert store.storage.fetch_blob(file).exists()

    age(blob(store), 200)
    rename = Path.rename

    def late(path: Path, target: Path) -> Path:
        store.storage.put_blob(source)  # between the comparison and the removal
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", late)
    assert collect_garbage(store, grace=100).files == ()
    monkeypatch.undo()
    assert store.storage.fetch_blob(file).read_bytes() == source.read_bytes()
    assert is_clean(store)


def test_leftovers_are_removed_after_the_grace_period(store: Store) -> None:
    artifact = store.write(STAGE, {}, {}, {})
    store.write_root("study", [artifact.id, "c" * 64])
    for identity in (artifact.id, "b" * 64, "c" * 64):
        (store.scratch(identity) / "state").write_bytes(b"x")
        store.write_log(identity, "log")
        store.write_failure(identity, {})
    root = Path(store.address)
    for name in (".rebasin-1.part", "blobs/.rebasin-2.part", f"records/{artifact.id[:2]}/.rebasin-3.part"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    (root / "notes.txt").write_text("mine")
    assert collect_garbage(store, grace=100).size == 0
    for path in [*root.rglob("*")]:
        age(path, 200)
    found = collect_garbage(store, grace=100)
    assert found.artifacts == ()
    assert found.unfinished == tuple(sorted([artifact.id, "b" * 64]))  # the stage c is unfinished, and needed
    assert len(found.leftovers) == 5  # three temporary files, a log and a failure
    assert not list(root.rglob("*.part"))
    assert store.read_log("b" * 64) is None
    assert store.read_log("c" * 64) == "log"
    assert set(store.read_failures()) == {artifact.id, "c" * 64}
    assert (root / "notes.txt").exists()
    assert store.has(artifact.id)
