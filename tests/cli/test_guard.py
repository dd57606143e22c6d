"""Errors of commands: one message and a documented exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_core.cli.guard import ExitCode
from rebasin_core.errors import RebasinWarning
from tests.cli.conftest import Called

MAIN = import_module("rebasin_core.cli.main")  # the package has a function of this name
RECIPES = import_module("rebasin_core.api.checkpoints.recipes")
OUTPUT = import_module("rebasin_core.cli.output")
TRACING = import_module("rebasin_core.api.tracing")
NETS = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

def leave():
    raise SystemExit(0)

def interrupt():
    raise KeyboardInterrupt
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "networks_here.py").write_text(NETS)
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        tensors = {"0.weight": torch.randn(4, 3), "0.bias": torch.randn(4)}
        tensors |= {"2.weight": torch.randn(2, 4), "2.bias": torch.randn(2)}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    return tmp_path


def align(candidate: str = "b", output: str = "out.safetensors") -> list[str]:
    files = ["a.safetensors", f"{candidate}.safetensors"]
    return ["align", *files, "-m", "networks_here:make", "-i", "2,3", "-o", output]


def test_an_unexpected_error_prints_one_line_and_saves_its_traceback(
    tmp_path: Path, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OUTPUT, "print_plugins", lambda _: 1 / 0)
    code, output, errors = called("plugins", cwd=tmp_path)
    assert (code, output) == (ExitCode.INTERNAL, "")
    assert re.match(
        r"internal error: ZeroDivisionError: division by zero \(test_guard.py:\d+\)\. This is a bug", errors
    )
    assert len(errors.splitlines()) == 1
    report = re.search(r"traceback in (\S+)", errors)
    assert report is not None
    text = Path(report[1]).read_text(encoding="utf-8")
    Path(report[1]).unlink()
    assert text.startswith("Traceback (most recent call last)")
    assert text.endswith("ZeroDivisionError: division by zero\n")
    monkeypatch.setenv("REBASIN_DEBUG", "1")
    code, _, errors = called("plugins", cwd=tmp_path)
    assert code == ExitCode.INTERNAL
    assert "Traceback (most recent call last)" in errors


class StrangeError(BaseException):
    """Not a subclass of `Exception`."""


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (SystemExit(0), (70, "internal error: SystemExit: 0")),
        (SystemExit("bye"), (70, "internal error: SystemExit: bye")),
        (StrangeError("x"), (70, "internal error: StrangeError: x")),
        (RecursionError("deep"), (70, "internal error: RecursionError: deep")),
        (MemoryError("9 GB"), (1, "error: out of memory (MemoryError: 9 GB)")),
        (OSError(28, "No space left on device"), (3, "error: cannot write the output: No space left")),
        (KeyboardInterrupt(), (130, "interrupted. Nothing was written")),
    ],
)
def test_every_exception_prints_a_message_and_sets_the_exit_code(
    tmp_path: Path, called: Called, monkeypatch: pytest.MonkeyPatch, error: BaseException, ending: tuple[int, str]
) -> None:
    def raising(_: object) -> bool:
        raise error

    monkeypatch.setenv("REBASIN_DEBUG", "1")
    monkeypatch.setattr(OUTPUT, "print_plugins", raising)
    found, _, errors = called("plugins", cwd=tmp_path)
    assert found == ending[0]
    assert ending[1] in errors


@pytest.mark.parametrize("factory", ["leave", "interrupt"])
def test_a_model_that_exits_is_named(folder: Path, called: Called, factory: str) -> None:
    code, _, errors = called("spec", f"networks_here:{factory}", "-i", "2,3", cwd=folder)
    assert code == 2
    assert f"cannot make a model from networks_here:{factory}: " in errors


def test_a_full_device_is_a_storage_error(tmp_path: Path, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no full device")
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, errors = called("schema", cwd=tmp_path)
        monkeypatch.undo()
    assert code == 3
    assert errors == "error: cannot write the output: No space left on device\n"


def test_warnings_that_cannot_be_printed_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", MAIN._show_warning)
    with Path("/dev/full").open("wb", buffering=0) as full:
        monkeypatch.setattr(sys, "stderr", TextIOWrapper(full, encoding="utf-8", write_through=True))
        warnings.showwarning("text", RebasinWarning, "file", 1)
        monkeypatch.setattr(sys, "stderr", None)
        warnings.showwarning("text", RebasinWarning, "file", 1)


@pytest.mark.slow
@pytest.mark.skipif(np.__version__.startswith("2.0."), reason="NumPy 2.0 itself needs a standard error stream")
def test_closed_streams_are_replaced_by_the_null_device(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom rebasin_core.cli.guard import open_closed_streams\nopen_closed_streams()\n"
        "import os\nprint('lost')\nprint('lost', file=sys.stderr)\n"
        f"handle = os.open({str(tmp_path / 'result')!r}, os.O_CREAT | os.O_WRONLY)\nassert handle > 2, handle\n"
        "os.write(1, b'lost')\nos.write(2, b'lost')\nos.write(handle, b'kept')\n"
    )
    command = f'"{sys.executable}" -c "$SCRIPT" <&- >&- 2>&-'
    done = subprocess.run(command, shell=True, env={"SCRIPT": script}, check=False, timeout=100)
    assert done.returncode == 0
    assert (tmp_path / "result").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("arguments", "interrupted_at"),
    [
        (["merge", *align()[1:]], (RECIPES, "open_checkpoint")),
        (align(), (RECIPES, "open_checkpoint")),
        (["spec", "networks_here:make", "-i", "2,3", "-o", "out.safetensors"], (TRACING, "trace_spec")),
    ],
)
def test_an_interrupted_command_without_partial_results_reports_that_nothing_was_written(
    folder: Path,
    called: Called,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    interrupted_at: tuple[object, str],
) -> None:
    def interrupted(*_: object, **__: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(*interrupted_at, interrupted)
    before = sorted(path.name for path in folder.iterdir())
    code, _, errors = called(*arguments, cwd=folder)
    assert code == 130
    assert errors.strip() == "interrupted. Nothing was written"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_interrupted_command_continues_or_starts_again_with_other_networks(
    folder: Path, called: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rebasin_core.bilinear.coordinate_descent import CoordinateDescent  # ruff: ignore[import-outside-top-level]

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    for candidate in "bc":
        with monkeypatch.context() as patch:
            patch.setattr(CoordinateDescent, "initialize_greedily", interrupted)
            code, _, errors = called(*align(), "--force", cwd=folder)
        assert code == 130
        assert "out.safetensors.unfinished; run the same command again to continue" in errors
        assert (folder / "out.safetensors.unfinished").is_dir()
        assert called(*align(candidate), "--force", cwd=folder)[0] == 0
        assert not (folder / "out.safetensors.unfinished").exists()
        expected = load_file(folder / f"{candidate}.safetensors")["0.bias"]
        assert torch.equal(load_file(folder / "out.safetensors")["0.bias"].sort().values, expected.sort().values)
        (folder / "out.safetensors").unlink()


@pytest.mark.parametrize(
    "output", ["a.safetensors", "b.safetensors", "./b.safetensors", "link.safetensors", "hard.safetensors"]
)
def test_the_output_is_never_an_input(folder: Path, called: Called, output: str) -> None:
    (folder / "link.safetensors").symlink_to(folder / "a.safetensors")
    (folder / "hard.safetensors").hardlink_to(folder / "b.safetensors")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for command in (align(output=output), ["merge", *align(output=output)[1:]]):
        code, _, errors = called(*command, cwd=folder)
        assert code == 3
        assert "is also an input" in errors
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("output", ["a.safetensors/x.safetensors", "x" * 300, "/proc/none/out.safetensors", "y" * 250])
def test_an_unwritable_output_is_an_error_before_the_computation(
    folder: Path, called: Called, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    monkeypatch.setattr(RECIPES, "align_checkpoints", lambda *_, **__: pytest.fail("the computation was started"))
    monkeypatch.setattr(TRACING, "trace_spec", lambda *_, **__: pytest.fail("the computation was started"))
    before = sorted(path.name for path in folder.iterdir())
    code, _, errors = called(*align(output=output), cwd=folder)
    assert code == 3, errors
    assert "cannot" in errors
    if output != "y" * 250:  # too long only with the suffix `.unfinished`
        code, _, errors = called("spec", "networks_here:make", "-i", "2,3", "-o", output, cwd=folder)
        assert code == 3, errors
    assert sorted(path.name for path in folder.iterdir()) == before


def test_long_names_are_written(folder: Path, called: Called) -> None:
    name = "z" * 240 + ".json"
    code, _, errors = called("spec", "networks_here:make", "-i", "2,3", "-o", name, cwd=folder)
    assert code == 0, errors
    assert (folder / name).is_file()


def test_a_specification_is_replaced_only_with_force(folder: Path, called: Called) -> None:
    (folder / "spec.json").write_text("mine")
    arguments = ("spec", "networks_here:make", "-i", "2,3", "-o", "spec.json")
    code, _, errors = called(*arguments, cwd=folder)
    assert code == 3
    assert "give --force to replace it" in errors
    assert (folder / "spec.json").read_text() == "mine"
    assert called(*arguments, "--force", cwd=folder)[0] == 0
    assert json.loads((folder / "spec.json").read_text())["kind"] == "specification"


def test_an_existing_checkpoint_is_replaced_with_force(folder: Path, called: Called) -> None:
    save_file({"old": torch.zeros(1)}, folder / "out.safetensors")
    assert called(*align(), cwd=folder)[0] == 3
    assert called(*align(), "--force", cwd=folder)[0] == 0
    assert "0.weight" in load_file(folder / "out.safetensors")
