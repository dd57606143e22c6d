"""Stores: written artifacts can be read, equal results have equal digests, and damage is detected."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest

from rebasin_core.errors import (
    DamagedArtifactError,
    FileFormatError,
    InvalidInputError,
    MissingArtifactError,
    StorageError,
)
from rebasin_core.studies.store import Artifact, Store, StoredFile

STAGE = {"kind": "train", "options": {"epochs": 3, "rate": 0.1}, "reads": {}, "inputs": {}, "code": {}}
DOCUMENTS = {"history": {"loss": [1.5, 0.1 + 0.2, None]}}
ABOUT = {"seconds": 1.25}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def record_of(store: Store, artifact: Artifact) -> Path:
    return Path(store.address) / "records" / artifact.id[:2] / f"{artifact.id}.json"


def test_opening_writes_no_file(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "absent")
    assert store.ids() == set()
    assert not store.has("0" * 64)
    assert store.roots() == {}
    assert store.read_failures() == {}
    assert not (tmp_path / "absent").exists()


def test_a_written_artifact_is_read_back(store: Store, source: Path) -> None:
    written = store.write(STAGE, DOCUMENTS, {"weights.bin": source}, ABOUT)
    # Independently: the identity is the SHA-256 of the sorted JSON without spaces.
    text = '{"code":{},"inputs":{},"kind":"train","options":{"epochs":3,"rate":0.1},"reads":{}}'
    assert written.id == hashlib.sha256(text.encode()).hexdigest()
    assert store.ids() == {written.id}
    assert store.has(written.id)
    read = Store.open(store.address).read(written.id)
    assert read == written
    assert read.documents == DOCUMENTS
    assert read.stage == STAGE
    assert read.about == ABOUT
    assert read.files == {"weights.bin": StoredFile(hashlib.sha256(b"weights" * 100).hexdigest(), 700)}
    assert store.fetch(read, "weights.bin").read_bytes() == source.read_bytes()
    assert store.read_many([written.id, "0" * 64]) == {written.id: written}


def test_the_digest_depends_on_the_result_only(store: Store, source: Path) -> None:
    first = store.write(STAGE, DOCUMENTS, {"weights.bin": source}, ABOUT)
    assert store.write(STAGE, DOCUMENTS, {"weights.bin": source}, {"seconds": 9}).digest == first.digest
    other = {
        store.write(STAGE, {}, {"weights.bin": source}, ABOUT).digest,
        store.write(STAGE, DOCUMENTS, {"other.bin": source}, ABOUT).digest,
        store.write({**STAGE, "kind": "load"}, DOCUMENTS, {"weights.bin": source}, ABOUT).digest,
    }
    source.write_bytes(b"changed")
    other.add(store.write(STAGE, DOCUMENTS, {"weights.bin": source}, ABOUT).digest)
    assert len(other) == 4
    assert first.digest not in other


def test_equal_files_are_stored_once_and_are_read_only(store: Store, source: Path) -> None:
    first = store.write(STAGE, {}, {"a.bin": source, "b.bin": source}, {})
    second = store.write({"kind": "load"}, {}, {"c.bin": source}, {})
    paths = {store.fetch(first, "a.bin"), store.fetch(first, "b.bin"), store.fetch(second, "c.bin")}
    assert len(paths) == 1
    assert paths.pop().stat().st_mode & 0o222 == 0
    assert len([p for p in (Path(store.address) / "blobs").rglob("*") if p.is_file()]) == 1


def test_a_missing_artifact_is_an_error_with_its_identity(store: Store) -> None:
    with pytest.raises(MissingArtifactError, match="run the study") as caught:
        store.read("a" * 64)
    assert caught.value.id == "a" * 64
    assert isinstance(caught.value, LookupError)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.id, str(copy)) == ("a" * 64, str(caught.value))


def test_removed_artifacts_are_missing(store: Store, source: Path) -> None:
    artifact = store.write(STAGE, {}, {"weights.bin": source}, {})
    store.remove(artifact.id)
    store.remove(artifact.id)
    assert not store.has(artifact.id)
    assert store.ids() == set()


def test_every_changed_byte_of_a_record_is_detected_or_harmless(store: Store, source: Path) -> None:
    artifact = store.write(STAGE, DOCUMENTS, {"weights.bin": source}, ABOUT)
    path = record_of(store, artifact)
    content = path.read_bytes()
    detected = 0
    for position in range(len(content)):
        for flip in (0x01, 0x20, 0x80):
            damaged = bytearray(content)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            try:
                found = store.read(artifact.id)
            except DamagedArtifactError:
                detected += 1
            else:
                assert found == artifact
    # 0.30000000000000004 and 0.30000000000000005 are the same number.
    assert detected == 3 * len(content) - 1


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_truncated_records_are_damaged(store: Store, source: Path, length: int) -> None:
    artifact = store.write(STAGE, DOCUMENTS, {"weights.bin": source}, ABOUT)
    path = record_of(store, artifact)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DamagedArtifactError, match="`rebasin store verify --remove` removes damaged results"):
        store.read(artifact.id)
    assert store.read_many([artifact.id]) == {}


def test_a_record_of_another_stage_is_damaged(store: Store) -> None:
    first = store.write(STAGE, {}, {}, {})
    second = store.write({"kind": "load"}, {}, {}, {})
    record_of(store, first).write_bytes(record_of(store, second).read_bytes())
    with pytest.raises(DamagedArtifactError, match="another stage"):
        store.read(first.id)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version 2"),
        ({"kind": "run"}, "kind"),
        ({"files": []}, "files"),
        ({"files": {"../x": {"sha256": "0" * 64, "size": 1}}}, "invalid"),
        ({"files": {"x": {"sha256": "../../x", "size": 1}}}, "invalid"),
        ({"files": {"x": {"sha256": "0" * 64, "size": -1}}}, "invalid"),
        ({"files": {"x": {"sha256": "0" * 64, "size": True}}}, "invalid"),
        ({"files": {"x": 3}}, "sha256"),
        ({"documents": 3}, "documents"),
        ({"more": 3}, "keys"),
    ],
)
def test_records_with_a_valid_checksum_and_invalid_content_are_damaged(
    store: Store, change: dict[str, object], message: str
) -> None:
    artifact = store.write(STAGE, {}, {}, {})
    record = json.loads(record_of(store, artifact).read_bytes()) | change
    hashed = {key: value for key, value in record.items() if key not in {"kind", "version", "checksum"}}
    text = json.dumps(hashed, sort_keys=True, separators=(",", ":"))
    record["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    record_of(store, artifact).write_text(json.dumps(record))
    with pytest.raises(DamagedArtifactError, match=message):
        store.read(artifact.id)


def damage(path: Path, how: str) -> None:
    path.chmod(0o644)
    content = path.read_bytes()
    match how:
        case "changed":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "truncated":
            path.write_bytes(content[:-1])
        case "longer":
            path.write_bytes(content + b"x")
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case "a folder":
            path.unlink()
            path.mkdir()


@pytest.mark.parametrize("how", ["changed", "truncated", "longer", "empty", "missing", "a folder"])
def test_damaged_files_are_detected_and_replaced_by_writing_again(store: Store, source: Path, how: str) -> None:
    artifact = store.write(STAGE, {}, {"weights.bin": source}, {})
    damage(store.fetch(artifact, "weights.bin"), how)
    with pytest.raises(DamagedArtifactError, match=r"weights\.bin") as caught:
        store.fetch(artifact, "weights.bin")
    assert caught.value.id == artifact.id
    if how == "a folder":  # not of this program; a rename cannot replace it
        with pytest.raises(StorageError):
            store.write(STAGE, {}, {"weights.bin": source}, {})
        return
    assert store.write(STAGE, {}, {"weights.bin": source}, {}) == artifact
    assert store.fetch(artifact, "weights.bin").read_bytes() == source.read_bytes()


def test_damage_is_detected_after_a_file_was_verified(store: Store, source: Path) -> None:
    artifact = store.write(STAGE, {}, {"weights.bin": source}, {})
    assert store.fetch(artifact, "weights.bin") == store.fetch(artifact, "weights.bin")
    damage(store.fetch(artifact, "weights.bin"), "changed")
    with pytest.raises(DamagedArtifactError):
        store.fetch(artifact, "weights.bin")


def test_logs_failures_and_roots(store: Store) -> None:
    identity = "ab" * 32
    assert store.read_log(identity) is None
    store.write_log(identity, "line 1\nline ä\n")
    assert store.read_log(identity) == "line 1\nline ä\n"
    store.write_failure(identity, {"error": "killed", "attempts": 2})
    assert store.read_failures() == {identity: {"error": "killed", "attempts": 2}}
    store.clear_failure(identity)
    store.clear_failure(identity)
    assert store.read_failures() == {}
    names = ["study", "../escape", "a/b", ".hidden", "..", "ümlaut %41", "a" * 200]
    for name in names:
        store.write_root(name, [identity])
    assert store.roots() == {name: {identity} for name in names}
    assert len(list((Path(store.address) / "roots").iterdir())) == len(names)
    store.remove_root("study")
    assert "study" not in store.roots()


def test_long_logs_keep_their_last_lines(store: Store) -> None:
    store.write_log("a" * 64, "x" * 2**23 + "last line")
    log = store.read_log("a" * 64)
    assert log is not None
    assert len(log) == 2**23
    assert log.endswith("last line")


def test_damaged_roots_and_failures(store: Store) -> None:
    store.write_root("study", ["a" * 64])
    store.write_failure("a" * 64, {})
    (Path(store.address) / "failures" / f"{'a' * 64}.json").write_text("{")
    assert store.read_failures() == {}
    (Path(store.address) / "roots" / "study.json").write_text('{"kind": "root", "version": 1, "artifacts": ["../x"]}')
    with pytest.raises(FileFormatError, match="list of identities"):
        store.roots()


def test_scratch_folders(store: Store) -> None:
    folder = store.scratch("a" * 64)
    (folder / "state.safetensors").write_bytes(b"x")
    assert store.scratch("a" * 64) == folder
    store.clear_scratch("a" * 64)
    store.clear_scratch("a" * 64)
    assert not folder.exists()
    assert store.ids() == set()


@pytest.mark.parametrize("identity", ["", "abc", "A" * 64, "../" * 22, "a" * 65, None])
def test_invalid_identities_are_errors(store: Store, identity: str) -> None:
    for method in (store.has, store.read, store.remove, store.read_log, store.clear_failure, store.scratch):
        with pytest.raises(InvalidInputError, match="64 lowercase"):
            method(identity)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../b", "a//b", ".hidden", "a\0b", "a\\b", "x" * 200, "a."]
)
def test_invalid_names_of_files_are_errors(store: Store, source: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="names of files"):
        store.write(STAGE, {}, {name: source}, {})
    assert store.ids() == set()


@pytest.mark.parametrize("document", [{"x": float("nan")}, {"x": {1, 2}}, {"x": object()}])
def test_documents_that_are_not_json_are_errors(store: Store, document: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match="JSON"):
        store.write(STAGE, document, {}, {})
    assert not Path(store.address).exists()


def test_a_document_nested_too_deeply_is_an_error(store: Store) -> None:
    nested: list[object] = []
    for _ in range(100):
        nested = [nested]
    with pytest.raises(InvalidInputError, match="levels deep"):
        store.write(STAGE, {"x": nested}, {}, {})
    assert not Path(store.address).exists()


def test_a_source_that_cannot_be_read_is_an_error(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"absent\.bin"):
        store.write(STAGE, {}, {"weights.bin": tmp_path / "absent.bin"}, {})
    assert store.ids() == set()


def test_folders_with_other_files_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    store = Store.open(tmp_path)
    with pytest.raises(StorageError, match="choose a new or empty folder"):
        store.write(STAGE, {}, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_stores_of_another_version_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"kind": "store", "version": 2}')
    with pytest.raises(FileFormatError, match="install the release"):
        Store.open(tmp_path)


def test_invalid_addresses_are_errors() -> None:
    for address in ("", "a\0b"):
        with pytest.raises(InvalidInputError, match="expected a folder or an address"):
            Store.open(address)


def test_other_files_in_a_store_are_ignored(store: Store) -> None:
    artifact = store.write(STAGE, {}, {}, {})
    for name in (
        "records/notes.txt",
        f"records/{artifact.id[:2]}/.rebasin-x.part",
        "records/zz/x.json",
        "blobs/readme",
    ):
        path = Path(store.address) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert store.ids() == {artifact.id}


def test_stores_are_pickled_by_address(store: Store) -> None:
    artifact = store.write(STAGE, DOCUMENTS, {}, ABOUT)
    assert pickle.loads(pickle.dumps(store)).read(artifact.id) == artifact
    assert pickle.loads(pickle.dumps(artifact)) == artifact
