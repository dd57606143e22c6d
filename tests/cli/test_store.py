"""The command `rebasin store`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_core.studies.store import Artifact, Store
from tests.cli.conftest import Called, rebasin


@pytest.fixture
def filled(tmp_path: Path) -> Artifact:
    """A store in the default folder, with one artifact that a study needs and one that it does not need."""
    store = Store.open(tmp_path / "rebasin-store")
    source = tmp_path / "weights.bin"
    source.write_bytes(b"x" * 2048)
    needed = store.write({"kind": "train", "options": {}}, {}, {"weights.bin": source}, {"seconds": 61.25})
    source.write_bytes(b"y" * 100)
    store.write({"kind": "curve", "options": {}}, {}, {"curve.bin": source}, {})
    store.write_root("study", [needed.id])
    return needed


def damage(tmp_path: Path, artifact: Artifact) -> None:
    digest = artifact.files["weights.bin"].sha256
    path = tmp_path / "rebasin-store" / "blobs" / digest[:2] / digest
    path.chmod(0o644)
    path.write_bytes(b"z" * 2048)


def test_as_a_user_runs_it(tmp_path: Path, called: Called, filled: Artifact) -> None:
    code, output, errors = called("store", "ls", cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert filled.id[:12] in output
    damage(tmp_path, filled)
    verified = rebasin("store", "verify", cwd=tmp_path)
    assert verified.returncode == 1
    assert f"DAMAGED {filled.id}" in verified.stdout
    assert not verified.stderr


def test_ls(tmp_path: Path, called: Called, filled: Artifact) -> None:
    code, output, errors = called("store", "ls", cwd=tmp_path)
    assert (code, errors) == (0, "")
    first, second = output.splitlines()
    words = first.split()
    assert (words[0], words[1], words[2:4], words[-2:]) == (filled.id[:12], "train", ["2.0", "KiB"], ["61.2", "s"])
    assert second.split()[1] == "curve"
    assert called("store", "ls", "--kind", "curve", cwd=tmp_path) == (0, f"{second}\n", "")
    assert called("store", "ls", "--kind", "scores", cwd=tmp_path) == (0, "", "")


def test_verify(tmp_path: Path, called: Called, filled: Artifact) -> None:
    code, output, errors = called("store", "verify", cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert output == "2 artifacts, 2 files (2.1 KiB), 0 artifacts damaged, 0 files of no artifact\n"
    Store.open(tmp_path / "rebasin-store").remove(filled.id)
    code, output, _ = called("store", "verify", cwd=tmp_path)
    assert (code, output.rpartition(", ")[2]) == (0, "1 files of no artifact\n")


def test_gc(tmp_path: Path, called: Called, filled: Artifact) -> None:
    store = Store.open(tmp_path / "rebasin-store")
    assert called("store", "gc", cwd=tmp_path) == (0, "removed no objects (0 B)\n", "")
    code, output, _ = called("store", "gc", "--grace", "0", "--dry-run", cwd=tmp_path)
    assert (code, output.partition(" (")[0]) == (0, "would remove 1 artifacts, 1 files")
    assert len(store.ids()) == 2
    code, output, _ = called("store", "gc", "--grace", "0", cwd=tmp_path)
    assert (code, output.partition(" (")[0]) == (0, "removed 1 artifacts, 1 files")
    assert store.ids() == {filled.id}


@pytest.mark.usefixtures("filled")
def test_du(tmp_path: Path, called: Called) -> None:
    code, output, errors = called("store", "du", cwd=tmp_path)
    assert (code, errors) == (0, "")
    rows = [line.split() for line in output.splitlines()[2:]]
    assert [row[0] for row in rows] == ["curve", "train", "all", "files", "logs,"]
    assert [row[1] for row in rows[:2]] == ["1", "1"]


def test_the_default_address_is_in_the_environment(
    tmp_path: Path, called: Called, filled: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.setenv("REBASIN_STORE", str(tmp_path / "rebasin-store"))
    code, output, _ = called("store", "ls", "-k", "train", cwd=tmp_path / "other")
    assert (code, output[:12]) == (0, filled.id[:12])
    code, output, _ = called("store", "ls", str(tmp_path / "rebasin-store"), cwd=tmp_path / "other")
    assert (code, len(output.splitlines())) == (0, 2)


@pytest.mark.parametrize("command", ["ls", "verify", "gc", "du"])
def test_a_missing_store_is_an_error(tmp_path: Path, called: Called, command: str) -> None:
    code, output, errors = called("store", command, cwd=tmp_path)
    assert (code, output) == (2, "")
    assert "there is no store at 'rebasin-store'" in errors
    assert not (tmp_path / "rebasin-store").exists()


def test_a_damaged_root_is_reported_and_stops_the_removal(tmp_path: Path, called: Called, filled: Artifact) -> None:
    (tmp_path / "rebasin-store" / "roots" / "study.json").write_text("{}")
    code, output, _ = called("store", "verify", cwd=tmp_path)
    assert (code, "DAMAGED root" in output) == (1, True)
    code, _, errors = called("store", "gc", "--grace", "0", cwd=tmp_path)
    assert (code, "roots/study.json" in errors) == (2, True)
    assert filled.id in Store.open(tmp_path / "rebasin-store").ids()
    assert len(Store.open(tmp_path / "rebasin-store").ids()) == 2


def test_a_damaged_record_is_listed(tmp_path: Path, called: Called, filled: Artifact) -> None:
    path = tmp_path / "rebasin-store" / "records" / filled.id[:2] / f"{filled.id}.json"
    path.write_text("{")
    code, output, _ = called("store", "ls", "-k", "damaged", cwd=tmp_path)
    assert (code, output[:12]) == (0, filled.id[:12])
    code, output, _ = called("store", "verify", cwd=tmp_path)
    assert code == 1
    assert f"DAMAGED {filled.id}: not JSON" in output
