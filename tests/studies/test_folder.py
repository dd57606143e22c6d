"""The output folder of a run: no file is lost, and it belongs to one run."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rebasin_core import RunConfig, load_run, run
from rebasin_core.architectures import MLPArchitecture
from rebasin_core.errors import SpecError, StorageError
from rebasin_core.studies.planning import contents as contents_module
from rebasin_core.studies.store import Store
from rebasin_core.tensors.lock import LOCK, FolderLock
from rebasin_core.tensors.modules import named_tensors

TEXT = """
data: {name: uci, dataset: toy, root: ROOT}
architecture: {name: mlp, hidden: [4]}
inference: {name: map, epochs: 1}
matchers: [weight]
barrier: {name: pointwise, num_points: 3}
"""


def write_data(folder: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.normal(size=(40, 3))
    np.savez(folder / "toy.npz", x=x, y=10 * seed + x @ [1.0, -1.0, 0.5], test_index=np.arange(10)[None])


def write_checkpoint(path: Path, seed: int) -> None:
    model = MLPArchitecture(hidden=[4]).build((3,), 1, generator=torch.Generator().manual_seed(seed))
    save_file({name: tensor.detach() for name, tensor in named_tensors(model).items()}, path)


def config(folder: Path, change: str = "") -> RunConfig:
    (folder / "run.yaml").write_text(TEXT.replace("ROOT", str(folder)) + change)
    return load_run(folder / "run.yaml")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and ``out``, the output folder of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    write_data(folder, 1)
    run(config(folder), folder / "out")
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished`."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "store" not in p.relative_to(folder).parts
    }


def results(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files without run times and the order of the record's entries."""
    return {name: content for name, content in files.items() if name != "run.json" and not name.startswith("stages")}


def test_a_folder_in_use_is_an_error_and_unchanged(copied: Path) -> None:
    out = copied / "out"
    with FolderLock(out):
        (out / "posteriors/.rebasin-abcd1234.part.safetensors").write_bytes(b"being written")
        (out / "curves/test/weight.json").unlink()
        before = contents(out)
        with pytest.raises(StorageError, match=r"is in use by process \d+ on "):
            run(config(copied), out)
        assert contents(out) == before
    run(config(copied), out)
    assert not (out / "posteriors/.rebasin-abcd1234.part.safetensors").exists()
    assert (out / "curves/test/weight.json").is_file()
    assert (out / LOCK).read_bytes() == b""


def test_other_settings_replace_the_files_of_the_stages_that_they_change(copied: Path) -> None:
    out = copied / "out"
    before = contents(out)
    other = config(copied).replace(matchers=("wasserstein",))
    result = run(other, out)
    assert set(result.computed) == {
        "curve test/wasserstein",
        "match wasserstein",
        "similarities wasserstein",
        "summary",
    }
    after = contents(out)
    assert "curves/test/weight.json" not in after
    assert after["curves/test/unaligned.json"] == before["curves/test/unaligned.json"]
    assert not run(config(copied), out).computed
    assert results(contents(out)) == results(before)


def test_an_edited_file_is_replaced_and_one_of_an_older_version_is_an_error(copied: Path) -> None:
    out = copied / "out"
    before = contents(out)
    (out / "curves/test/unaligned.csv").write_text("t,loss\n")
    run(config(copied), out)
    assert contents(out)["curves/test/unaligned.csv"] == before["curves/test/unaligned.csv"]
    (out / "run.json").write_text('{"kind": "run", "version": 1, "config": {}}')
    with pytest.raises(StorageError, match=r"can be loaded with `reference: \{path: ...\}`"):
        run(config(copied), out)


@pytest.mark.nightly
@pytest.mark.slow
def test_a_second_command_does_not_disturb_the_first(tmp_path: Path) -> None:
    write_data(tmp_path, 1)
    config(tmp_path, "num_train: 20")
    command = [sys.executable, "-m", "rebasin_core", "run", "-o", "out", "run.yaml"]
    first = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    # A stopped process holds the lock, however fast the machine is.
    first.send_signal(signal.SIGSTOP)
    for change in ("num_train: 20", "num_train: 21"):
        with pytest.raises(StorageError, match="is in use"):
            run(config(tmp_path, change), tmp_path / "out")
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=100)
    assert first.returncode == 0, errors.decode()


def test_files_of_users_are_never_removed(copied: Path) -> None:
    out = copied / "out"
    (out / ".notes.partial").write_text("mine")
    (out / ".thesis.part.tex").write_text("mine")
    (out / ".figure.json.abcd1234.part.json").mkdir()
    (out / ".rebasin-folder01.part").mkdir()
    (out / "drafts").mkdir()
    (out / "drafts/.rebasin-abcd1234.part").write_text("in a folder that does not belong to the run")
    (out / "curves/.rebasin-abcd1234.part.json").symlink_to(copied / "toy.npz")
    before = contents(out)
    run(config(copied), out)
    assert results(contents(out)) == results(before)
    assert (out / ".rebasin-folder01.part").is_dir()
    assert (out / "curves/.rebasin-abcd1234.part.json").is_symlink()


@pytest.mark.parametrize("name", [".git", ".notes.partial", ".hidden"])
def test_a_folder_with_hidden_files_is_not_empty(finished: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("")
    with pytest.raises(StorageError, match=r"contains other files \(" + name):
        run(load_run(finished / "run.yaml"), tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == [name]


def test_a_run_killed_before_its_record_was_written_is_restarted(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK).write_text("process 1 on elsewhere")
    (tmp_path / "out/.rebasin-abcd1234.part.json").write_text("{")
    run(load_run(finished / "run.yaml"), tmp_path / "out")
    assert (tmp_path / "out/summary.json").is_file()
    assert not list((tmp_path / "out").glob(".rebasin-*"))


def test_changed_data_change_every_curve(copied: Path) -> None:
    before = json.loads((copied / "out/curves/test/unaligned.json").read_text())["loss"]
    write_data(copied, 2)
    changed = run(config(copied), copied / "out")
    fresh = run(config(copied), copied / "fresh")
    assert changed.curves == fresh.curves
    assert list(changed.curves["test"]["unaligned"].loss) != before
    assert set(changed.computed) == set(fresh.computed)


def test_a_changed_loaded_file_changes_what_depends_on_it(tmp_path: Path) -> None:
    write_data(tmp_path, 1)
    write_checkpoint(tmp_path / "c.safetensors", 1)
    change = f"candidate: {{path: {tmp_path}/c.safetensors}}\n"
    first = run(config(tmp_path, change), tmp_path / "out")
    write_checkpoint(tmp_path / "c.safetensors", 2)
    again = run(config(tmp_path, change), tmp_path / "out")
    fresh = run(config(tmp_path, change), tmp_path / "fresh")
    assert again.curves == fresh.curves
    assert first.curves["test"]["unaligned"].loss[-1] != again.curves["test"]["unaligned"].loss[-1]
    # The reference is trained from a seed, and is not affected.
    assert set(first.computed) - set(again.computed) == {
        "train data", "test data", "train reference", "scores test/reference",
    }  # fmt: skip
    write_checkpoint(tmp_path / "c.safetensors", 1)
    assert not run(config(tmp_path, change), tmp_path / "out").computed


def test_a_loaded_file_may_move(tmp_path: Path) -> None:
    write_data(tmp_path, 1)
    write_checkpoint(tmp_path / "c.safetensors", 1)
    run(config(tmp_path, f"candidate: {{path: {tmp_path}/c.safetensors}}\n"), tmp_path / "out")
    (tmp_path / "c.safetensors").rename(tmp_path / "d.safetensors")
    assert not run(config(tmp_path, f"candidate: {{path: {tmp_path}/d.safetensors}}\n"), tmp_path / "out").computed


def test_a_changed_specification_file_changes_matches_and_not_trainings(tmp_path: Path) -> None:
    write_data(tmp_path, 1)
    spec = MLPArchitecture(hidden=[4]).spec(MLPArchitecture(hidden=[4]).build((3,), 1, generator=torch.Generator()))
    document = {"kind": "specification", "version": 1, **spec.layout.as_json()}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    change = f"spec: {{name: file, path: {tmp_path}/spec.json}}\n"
    first = run(config(tmp_path, change), tmp_path / "out")
    fixed = {name: ", ".join(map(str, spec.layout.shape(name))) for name in spec.layout.axes}
    (tmp_path / "spec.json").write_text(json.dumps({**document, "groups": {}, "axes": fixed}))
    second = run(config(tmp_path, change), tmp_path / "out")
    assert first.matches["weight"]["moved"] != second.matches["weight"]["moved"]
    assert set(second.computed) == {"match weight", "similarities weight", "curve test/weight", "summary"}


def test_untested_tensors_are_an_error_unless_allowed(tmp_path: Path) -> None:
    """Constant inputs become zeros when standardized, so the first weights do not influence the outputs."""
    np.savez(tmp_path / "toy.npz", x=np.ones((40, 3)), y=np.arange(40.0), test_index=np.arange(10)[None])
    with pytest.raises(SpecError, match=r"untested.*`layers\.0\.weight"):
        run(config(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(config(tmp_path, "allow_untested: true\n"), tmp_path / "out")
    assert (tmp_path / "out/summary.json").is_file()


def test_another_version_of_the_package_is_another_run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = json.loads((copied / "out/run.json").read_text())
    assert first["code"]["rebasin-core"].startswith("0.1.0+")
    monkeypatch.setattr(contents_module, "version", lambda _: "0.0.9")
    result = run(config(copied), copied / "out")
    assert "train reference" in result.computed
    second = json.loads((copied / "out/run.json").read_text())
    assert not set(first["stages"].values()) & set(second["stages"].values())


@pytest.mark.parametrize("text", ["[]", "{", "3", "[" * 5000, '{"kind": "run", "version": 99}', '{"config": {}}'])
def test_an_invalid_run_record_is_an_error(copied: Path, text: str) -> None:
    (copied / "out/run.json").write_text(text)
    with pytest.raises(StorageError, match=r"is not the record of a run .* choose another output folder, or remove"):
        run(config(copied), copied / "out")


def test_a_stage_with_a_damaged_record_is_repeated(copied: Path) -> None:
    before = contents(copied / "out/curves")
    identity = json.loads((copied / "out/stages/curve-test-weight.json").read_text())["id"]
    for text in ("[]", "{", "[" * 5000, '{"kind": "artifact", "version": 1}'):
        (record,) = (copied / "out/store/records").rglob(f"{identity}.json")
        record.chmod(0o644)
        record.write_text(text)
        assert "curve test/weight" in run(config(copied), copied / "out").computed
        assert contents(copied / "out/curves") == before


def test_a_damaged_posterior_is_trained_again(copied: Path) -> None:
    out = copied / "out"
    before = contents(out)
    stages = json.loads((out / "run.json").read_text())["stages"]
    store = Store.open(out / "store")
    blob = store.fetch(store.read(stages["posterior/candidate"]), "posterior.safetensors")
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    store.remove(stages["curve/test/unaligned"])
    result = run(config(copied), out)
    assert {"train candidate", "curve test/unaligned"} <= set(result.computed)
    assert results(contents(out)) == results(before)


def test_the_number_of_threads_is_recorded(finished: Path) -> None:
    about = json.loads((finished / "out/run.json").read_text())["about"]
    assert about["threads"] == str(torch.get_num_threads())
