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
from rebasin_core.studies.lock import LOCK, FolderLock
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
    """A copy of `finished`, whose configuration has the new path of the data."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    record = json.loads((tmp_path / "out/run.json").read_text())
    record["config"]["data"]["root"] = str(tmp_path)
    (tmp_path / "out/run.json").write_text(json.dumps(record))
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


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


def test_different_settings_are_an_error_and_change_nothing(copied: Path) -> None:
    out = copied / "out"
    (out / "posteriors/.rebasin-abcd1234.part.safetensors").write_bytes(b"of a run that is running")
    before = contents(out)
    with pytest.raises(StorageError, match="a run with different settings: `seed`"):
        run(config(copied, "seed: 7"), out)
    assert contents(out) == before


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
    for change, message in (("num_train: 20", "is in use"), ("num_train: 21", "different settings: `num_train`")):
        with pytest.raises(StorageError, match=message):
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
    assert contents(out) == before
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


def test_changed_data_are_an_error(copied: Path) -> None:
    write_data(copied, 2)
    before = contents(copied / "out")
    with pytest.raises(StorageError, match=r"whose inputs have changed since: the dataset; choose another output"):
        run(config(copied), copied / "out")
    assert contents(copied / "out") == before


def test_a_changed_loaded_file_is_an_error(tmp_path: Path) -> None:
    write_data(tmp_path, 1)
    write_checkpoint(tmp_path / "c.safetensors", 1)
    change = f"candidate: {{path: {tmp_path}/c.safetensors}}\n"
    run(config(tmp_path, change), tmp_path / "out")
    write_checkpoint(tmp_path / "c.safetensors", 2)
    with pytest.raises(StorageError, match=r"have changed since: .*c\.safetensors"):
        run(config(tmp_path, change), tmp_path / "out")
    again = run(config(tmp_path, change), tmp_path / "other")
    write_checkpoint(tmp_path / "c.safetensors", 1)
    before = run(config(tmp_path, change), tmp_path / "out")
    assert before.curves["test"]["unaligned"].loss[-1] != again.curves["test"]["unaligned"].loss[-1]


def test_a_changed_specification_file_is_an_error(tmp_path: Path) -> None:
    write_data(tmp_path, 1)
    spec = MLPArchitecture(hidden=[4]).spec(MLPArchitecture(hidden=[4]).build((3,), 1, generator=torch.Generator()))
    document = {"kind": "specification", "version": 1, **spec.layout.as_json()}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    change = f"spec: {{name: file, path: {tmp_path}/spec.json}}\n"
    run(config(tmp_path, change), tmp_path / "out")
    fixed = {name: ", ".join(map(str, spec.layout.shape(name))) for name in spec.layout.axes}
    (tmp_path / "spec.json").write_text(json.dumps({**document, "groups": {}, "axes": fixed}))
    with pytest.raises(StorageError, match=r"have changed since: the specification"):
        run(config(tmp_path, change), tmp_path / "out")


def test_untested_tensors_are_an_error_unless_allowed(tmp_path: Path) -> None:
    """Constant inputs become zeros when standardized, so the first weights do not influence the outputs."""
    np.savez(tmp_path / "toy.npz", x=np.ones((40, 3)), y=np.arange(40.0), test_index=np.arange(10)[None])
    with pytest.raises(SpecError, match=r"untested.*`layers\.0\.weight"):
        run(config(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run(config(tmp_path, "allow_untested: true\n"), tmp_path / "out")
    assert (tmp_path / "out/summary.json").is_file()


def test_another_version_of_the_package_is_an_error(copied: Path) -> None:
    record = json.loads((copied / "out/run.json").read_text())
    assert record["code"] == {"rebasin-core": "0.1.0"}
    (copied / "out/run.json").write_text(json.dumps({**record, "code": {"rebasin-core": "0.0.9"}}))
    with pytest.raises(StorageError, match=r"of another version: rebasin-core 0\.0\.9, now 0\.1\.0"):
        run(config(copied), copied / "out")


def test_a_stage_is_repeated_if_its_inputs_changed(copied: Path) -> None:
    out = copied / "out"
    curve = json.loads((out / "curves/test/unaligned.json").read_text())["loss"]
    other = run(config(copied, "candidate: {seed: 9}\n"), copied / "other")
    # Replace a posterior together with the record of its stage, as if parts of another folder were copied.
    for name in ("posteriors/candidate.safetensors", "stages/posterior-candidate.json"):
        shutil.copy(copied / "other" / name, out / name)
    result = run(config(copied), out)
    assert result.curves["test"]["unaligned"].loss == other.curves["test"]["unaligned"].loss
    assert list(result.curves["test"]["unaligned"].loss) != curve


@pytest.mark.parametrize("text", ["[]", "{", "3", "[" * 5000, '{"kind": "run", "version": 99}', '{"config": {}}'])
def test_an_invalid_run_record_is_an_error(copied: Path, text: str) -> None:
    (copied / "out/run.json").write_text(text)
    with pytest.raises(StorageError, match=r"is not the record of a run .* choose another output folder, or remove"):
        run(config(copied), copied / "out")


@pytest.mark.parametrize("text", ["[]", "{", "[" * 5000, '{"kind": "stage", "version": 1, "files": 3, "reads": {}}'])
def test_a_stage_with_a_damaged_record_is_repeated(copied: Path, text: str) -> None:
    before = contents(copied / "out/curves")
    (copied / "out/stages/curve-test-weight.json").write_text(text)
    run(config(copied), copied / "out")
    assert contents(copied / "out/curves") == before
    assert json.loads((copied / "out/stages/curve-test-weight.json").read_text())["threads"] == torch.get_num_threads()


def test_the_number_of_threads_is_recorded(finished: Path) -> None:
    about = json.loads((finished / "out/run.json").read_text())["about"]
    assert about["threads"] == str(torch.get_num_threads())
