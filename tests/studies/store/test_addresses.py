"""The operations of stores on every file system, and errors of addresses."""

from __future__ import annotations

import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import fsspec
import pytest

from rebasin_core.errors import DamagedArtifactError, InvalidInputError, MissingArtifactError, StorageError
from rebasin_core.studies.store import Store, collect_garbage, disk_usage, list_artifacts, verify_store
from rebasin_core.studies.store.storage import Storage

STAGE = {"kind": "train", "options": {"epochs": 3}}


def paths(store: Store) -> list[str]:
    """Return the paths of all objects of a store, by fsspec."""
    files, root = fsspec.core.url_to_fs(store.address)
    files.invalidate_cache()
    return [str(path).replace(str(root).strip("/"), "", 1).strip("/") for path in files.find(root)]


def overwrite(store: Store, name: str, content: bytes) -> None:
    files, root = fsspec.core.url_to_fs(store.address)
    path = next(path for path in files.find(root) if name in path)
    if isinstance(files, fsspec.implementations.local.LocalFileSystem):
        Path(path).chmod(0o644)
    files.pipe_file(path, content)


def test_a_store_that_does_not_exist_is_empty(store: Store) -> None:
    assert not store.exists()
    assert store.ids() == set()
    assert not store.has("0" * 64)
    assert store.roots() == {}
    assert store.read_failures() == {}
    assert store.read_log("0" * 64) is None
    with pytest.raises(MissingArtifactError):
        store.read("0" * 64)
    assert paths(store) == []


def test_artifacts_logs_failures_and_roots(store: Store, source: Path) -> None:
    artifact = store.write(STAGE, {"x": [1.5, None]}, {"w.bin": source, "sub/w.bin": source}, {"seconds": 2})
    again = Store.open(store.address)
    assert again.exists()
    assert again.read(artifact.id) == artifact
    assert again.has(artifact.id)
    assert again.ids() == {artifact.id}
    assert again.fetch(artifact, "w.bin").read_bytes() == source.read_bytes()
    assert again.fetch(artifact, "sub/w.bin").read_bytes() == source.read_bytes()
    store.write_log(artifact.id, "line\n")
    assert again.read_log(artifact.id) == "line\n"
    store.write_failure(artifact.id, {"error": "killed"})
    assert again.read_failures() == {artifact.id: {"error": "killed"}}
    store.clear_failure(artifact.id)
    assert again.read_failures() == {}
    store.write_root("../study ä", [artifact.id])
    assert again.roots() == {"../study ä": {artifact.id}}
    store.remove_root("../study ä")
    store.remove_root("../study ä")
    assert again.roots() == {}
    store.remove(artifact.id)
    store.remove(artifact.id)
    assert again.ids() == set()


def test_many_artifacts_are_read(store: Store) -> None:
    written = [store.write({"kind": "x", "options": i}, {}, {}, {}) for i in range(50)]
    wanted = [artifact.id for artifact in written]
    assert store.read_many([*wanted, "0" * 64]) == {artifact.id: artifact for artifact in written}
    assert list(store.read_many(reversed(wanted))) == wanted[::-1]
    overwrite(store, wanted[3], b"")
    assert set(store.read_many(wanted)) == set(wanted) - {wanted[3]}
    with pytest.raises(DamagedArtifactError):
        store.read(wanted[3])


@pytest.mark.parametrize("content", [b"", b"weights" * 99, b"weights" * 101, b"Weights" * 100])
def test_damaged_files_are_detected_and_replaced(store: Store, source: Path, content: bytes) -> None:
    artifact = store.write(STAGE, {}, {"w.bin": source}, {})
    overwrite(store, "blobs", content)
    with pytest.raises(DamagedArtifactError, match=r"w\.bin") as caught:
        store.fetch(artifact, "w.bin")
    assert caught.value.id == artifact.id
    assert list(verify_store(store).damaged) == [artifact.id]
    store.write(STAGE, {}, {"w.bin": source}, {})
    assert store.fetch(artifact, "w.bin").read_bytes() == source.read_bytes()
    assert verify_store(store).passed


def test_missing_files_are_detected(store: Store, source: Path) -> None:
    artifact = store.write(STAGE, {}, {"w.bin": source}, {})
    store.storage.delete(next(store.storage.keys("blobs")))
    with pytest.raises(DamagedArtifactError, match=r"w\.bin"):
        store.fetch(artifact, "w.bin")


def test_leases(store: Store) -> None:
    with store.session() as first, Store.open(store.address).session() as second:
        assert first.acquire("a" * 64)
        assert first.acquire("a" * 64)
        assert not second.acquire("a" * 64)
        holder = second.holder("a" * 64)
        assert holder is not None
        assert holder.session == first.id
        second.release("a" * 64)
        assert second.holder("a" * 64) == holder
        first.release("a" * 64)
        assert second.holder("a" * 64) is None
        assert second.acquire("a" * 64)
        assert [other.session for other in first.others()] == [second.id]
    assert [path for path in paths(store) if "leases" in path or "sessions" in path] == []


def test_of_many_threads_one_acquires_a_lease(store: Store) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        sessions = [stack.enter_context(store.session()) for _ in range(8)]
        acquired = list(pool.map(lambda session: session.acquire("a" * 64), sessions))
    assert sum(acquired) == 1 or store.address.startswith("memory")  # which has no atomic creation


def test_unfinished_work_is_local(store: Store, cache: Path) -> None:
    folder = store.scratch("a" * 64)
    (folder / "state").write_bytes(b"x")
    assert Store.open(store.address).scratch("a" * 64) == folder
    assert folder.is_relative_to(cache if "://" in store.address else store.address)
    store.clear_scratch("a" * 64)
    assert not folder.exists()


def test_maintenance(store: Store, source: Path) -> None:
    kept = store.write(STAGE, {}, {"w.bin": source}, {"seconds": 1.5})
    store.write_root("study", [kept.id])
    other = source.with_name("other.bin")
    other.write_bytes(b"x" * 50)
    removed = store.write({"kind": "curve"}, {}, {"o.bin": other, "w.bin": source}, {})
    rows = list_artifacts(store)
    assert {(row.id, row.kind, row.size, row.seconds) for row in rows} == {
        (kept.id, "train", 700, 1.5),
        (removed.id, "curve", 750, None),
    }
    usage = disk_usage(store)
    assert {kind: count.artifacts for kind, count in usage.kinds.items()} == {"curve": 1, "train": 1}
    records = usage.total.size - 750
    assert sum(count.size for count in usage.kinds.values()) == records + 750 + 700
    assert collect_garbage(store).artifacts == ()
    expected = collect_garbage(store, grace=-1, dry_run=True)
    assert store.ids() == {kept.id, removed.id}
    found = collect_garbage(store, grace=-1)
    assert found == expected
    assert found.artifacts == (removed.id,)
    assert found.files == (removed.files["o.bin"].sha256,)
    assert store.ids() == {kept.id}
    assert store.fetch(kept, "w.bin").read_bytes() == source.read_bytes()
    assert len([path for path in paths(store) if "blobs" in path]) == 1


def test_temporary_objects_are_not_left(store: Store, source: Path) -> None:
    store.write(STAGE, {}, {"w.bin": source}, {})
    store.write_log("a" * 64, "x")
    collect_garbage(store)
    assert {path.split("/")[0] for path in paths(store)} == {"store.json", "records", "blobs", "logs"}
    assert not [path for path in paths(store) if ".part" in path]


def test_folders_with_other_files_are_not_used(address: str) -> None:
    files, root = fsspec.core.url_to_fs(address)
    files.makedirs(root, exist_ok=True)
    files.pipe_file(f"{root}/thesis.tex", b"x")
    store = Store.open(address)
    with pytest.raises(StorageError, match="choose a new or empty folder"):
        store.write(STAGE, {}, {}, {})


@pytest.mark.parametrize("address", ["nosuch://bucket/x", "s3://", "memory://", "memory:///"])
def test_invalid_addresses_are_errors(address: str) -> None:
    if address.startswith("s3"):
        pytest.importorskip("s3fs", reason="the S3 tests need the package s3fs")
    with pytest.raises(InvalidInputError, match=r"nosuch|expected an address"):
        Store.open(address)


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['s3fs'] = None\nfrom rebasin_core.studies.store import Store\nStore.open('s3://b/x')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "rebasin-core[s3]"' in result.stderr


def test_a_missing_bucket_is_an_error_on_writing(s3_address: str) -> None:
    store = Store.open(f"s3://{secrets.token_hex(8)}/store")
    assert s3_address
    assert store.ids() == set()
    with pytest.raises(StorageError, match="does not exist"):
        store.write(STAGE, {}, {}, {})


def test_wrong_credentials_and_unreachable_servers_are_errors(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs", reason="the S3 tests need the package s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # no server
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="Check the address"):
        Store.open(s3_address)


def test_storages_can_be_replaced(store: Store) -> None:
    assert isinstance(store.storage, Storage)
    assert store.storage.address == store.address
