"""The commands on checkpoints: one as a user meets it, in a subprocess, the others in this one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from tests.cli.conftest import Called, rebasin

NETS = """
import torch
def make():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.BatchNorm1d(12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
    )
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    namespace: dict[str, object] = {}
    exec(NETS, namespace)
    make = namespace["make"]
    assert callable(make)
    torch.manual_seed(0)
    first = make()
    order = torch.randperm(12)
    moved = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    for name in ("1.weight", "1.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var"):
        moved[name] = moved[name][order].contiguous()
    moved["4.weight"] = moved["4.weight"][:, order].contiguous()
    save_file(first.state_dict(), tmp_path / "a.safetensors")
    save_file(moved, tmp_path / "b.safetensors")
    return tmp_path


def test_align_finds_the_order(folder: Path) -> None:
    done = rebasin(
        "align", "nets:make", "a.safetensors", "b.safetensors", "-i", "4,1,8,8", "-o", "c.safetensors", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "12 units moved" in done.stdout or "units moved in 1 groups" in done.stdout
    first, found = load_file(folder / "a.safetensors"), load_file(folder / "c.safetensors")
    assert set(first) == set(found)
    for name, tensor in first.items():
        torch.testing.assert_close(found[name], tensor)


def test_an_interrupted_align_goes_on(folder: Path, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("align", "nets:make", "a.safetensors", "b.safetensors", "-i", "4,1,8,8", "-o", "c.safetensors")

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CoordinateDescent, "initialize_greedily", interrupted)
        code, _, errors = called(*arguments, cwd=folder)
    assert code == 130
    assert "run the same command again" in errors
    assert (folder / "c.safetensors.unfinished").exists()
    assert not (folder / "c.safetensors").exists()
    assert called(*arguments, cwd=folder)[0] == 0
    assert not (folder / "c.safetensors.unfinished").exists()
    assert (folder / "c.safetensors").exists()


def test_merge_writes_an_ordinary_checkpoint(folder: Path, called: Called) -> None:
    arguments = ("merge", "nets:make", "a.safetensors", "b.safetensors", "-i", "4,1,8,8", "-o", "m.safetensors")
    code, _, errors = called(*arguments, "--repair", "reset", "--data", "digits", cwd=folder)
    assert code == 0, errors
    first, found = load_file(folder / "a.safetensors"), load_file(folder / "m.safetensors")
    torch.testing.assert_close(found["4.weight"], first["4.weight"])
    assert not torch.equal(found["2.running_mean"], first["2.running_mean"])


def test_barrier_is_printed_beside_the_unaligned_one(folder: Path, called: Called) -> None:
    arguments = ("barrier", "nets:make", "a.safetensors", "b.safetensors", "-i", "4,1,8,8", "--points", "3")
    code, output, errors = called(*arguments, "--data", "digits", cwd=folder)
    assert code == 0, errors
    lines = [line.split() for line in output.splitlines() if line.startswith(("unaligned", "wasserstein"))]
    assert [line[0] for line in lines] == ["unaligned", "wasserstein"]
    assert float(lines[1][1]) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["align", "nets:make", "a.safetensors", "b.safetensors", "-o", "c"], "either --input"),
        (["barrier", "nets:make", "a.safetensors", "b.safetensors", "-i", "4,1,8,8"], "name a data set with --data"),
        (["merge", "nets:make", "a.safetensors", "no.safetensors", "-i", "4,1,8,8", "-o", "c"], "cannot read"),
        (["merge", "nets:make", "a.safetensors", "-w", "1", "-w", "2", "-i", "4,1,8,8", "-o", "c"], "1 weights"),
    ],
)
def test_mistakes_are_one_sentence(folder: Path, called: Called, arguments: list[str], message: str) -> None:
    code, output, errors = called(*arguments, cwd=folder)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors + output
    assert not (folder / "c").exists()
