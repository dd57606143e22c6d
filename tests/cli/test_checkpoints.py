"""The commands for checkpoints, in this process; `checkpoints/test_options.py` runs some as programs."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from tests.cli.conftest import Called

NETS = """
import torch
def make():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 12), torch.nn.BatchNorm1d(12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
    )
"""


MODEL = ("-m", "nets:make", "-i", "4,1,8,8")


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
    permuted = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    for name in ("1.weight", "1.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var"):
        permuted[name] = permuted[name][order].contiguous()
    permuted["4.weight"] = permuted["4.weight"][:, order].contiguous()
    save_file(first.state_dict(), tmp_path / "a.safetensors")
    save_file(permuted, tmp_path / "b.safetensors")
    return tmp_path


def test_align_recovers_a_planted_permutation(folder: Path, called: Called) -> None:
    code, output, errors = called("align", "a.safetensors", "b.safetensors", *MODEL, "-o", "c.safetensors", cwd=folder)
    assert (code, errors) == (0, "")
    assert "Verdict: equal" in output
    assert "written: c.safetensors" in output
    first, found = load_file(folder / "a.safetensors"), load_file(folder / "c.safetensors")
    assert set(first) == set(found)
    for name, tensor in first.items():
        torch.testing.assert_close(found[name], tensor)


def test_an_interrupted_align_is_resumed(folder: Path, called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("align", "a.safetensors", "b.safetensors", "-m", "nets:make", "-i", "4,1,8,8", "-o", "c.safetensors")

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
    arguments = ("merge", "a.safetensors", "b.safetensors", "-m", "nets:make", "-i", "4,1,8,8", "-o", "m.safetensors")
    code, _, errors = called(*arguments, "--repair", "reset", "--data", "digits", cwd=folder)
    assert code == 0, errors
    first, found = load_file(folder / "a.safetensors"), load_file(folder / "m.safetensors")
    torch.testing.assert_close(found["4.weight"], first["4.weight"])
    assert not torch.equal(found["2.running_mean"], first["2.running_mean"])


def test_the_barrier_is_printed_before_and_after_alignment(folder: Path, called: Called) -> None:
    arguments = ("barrier", "a.safetensors", "b.safetensors", "-m", "nets:make", "-i", "4,1,8,8", "--points", "3")
    code, output, errors = called(*arguments, "--data", "digits", cwd=folder)
    assert code == 0, errors
    lines = [line.split() for line in output.splitlines() if line.startswith(("unaligned", "weight"))]
    assert [line[0] for line in lines] == ["unaligned", "weight"]
    assert float(lines[1][1]) == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["align", "a.safetensors", "b.safetensors", "-o", "c"], "has no configuration"),
        (["align", "a.safetensors", "b.safetensors", "-i", "4,1,8,8", "-o", "c"], "give it as --model"),
        (["align", "a.safetensors", "b.safetensors", "-m", "nets:make", "-o", "c"], "example inputs"),
        (
            ["align", "a.safetensors", "b.safetensors", *MODEL, "-o", "c", "--matcher", "wieght"],
            "did you mean 'weight'",
        ),
        (["align", "a.safetensors", "b.safetensors", *MODEL, "-o", "c", "--memory", "much"], "expected a size"),
        (
            ["align", "a.safetensors", "b.safetensors", *MODEL, "-o", "c", "--memory", "1MB"],
            "in addition to mapped files",
        ),
        (["align", "a.safetensors", "b.safetensors", *MODEL, "-o", "c.pt"], "c.safetensors"),
        (["barrier", "a.safetensors", "b.safetensors", *MODEL], "name a dataset with --data"),
        (["merge", "a.safetensors", "no.safetensors", *MODEL, "-o", "c"], "cannot read"),
        (["merge", "a.safetensors", *MODEL, "-o", "c"], "checkpoints"),
        (["merge", "a.safetensors", "b.safetensors", "-w", "1", *MODEL, "-o", "c"], "weight"),
        (["merge", "a.safetensors", "b.safetensors", *MODEL, "-o", "c", "--method", "ties"], "expected a base network"),
    ],
)
def test_invalid_arguments_print_one_message(folder: Path, called: Called, arguments: list[str], message: str) -> None:
    code, output, errors = called(*arguments, cwd=folder)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors + output
    assert not (folder / "c").exists()


INPUTS = ("-i", "4,1,8,8")
DATA = """
import torch
from torch.utils.data import TensorDataset
def splits(scale=1.0, count=40):
    inputs = scale * torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, torch.arange(count) % 10)
    return data, data
def tensors():
    return torch.randn(30, 1, 8, 8), torch.arange(30) % 10
def nothing():
    return 3
"""


@pytest.mark.parametrize("command", ["align", "merge"])
def test_an_input_is_never_overwritten(folder: Path, called: Called, command: str) -> None:
    before = {name: (folder / name).read_bytes() for name in ("a.safetensors", "b.safetensors")}
    (folder / "link.safetensors").symlink_to(folder / "b.safetensors")
    (folder / "hard.safetensors").hardlink_to(folder / "a.safetensors")
    for output in ("a.safetensors", "b.safetensors", "./b.safetensors", "link.safetensors", "hard.safetensors"):
        for extra in ([], ["--force"]):
            arguments = (command, "a.safetensors", "b.safetensors", "-m", "nets:make", *INPUTS, "-o", output, *extra)
            code, _, errors = called(*arguments, cwd=folder)
            assert code == 3
            assert "is also an input" in errors
    assert before == {name: (folder / name).read_bytes() for name in before}


def test_an_existing_file_is_replaced_only_with_force(folder: Path, called: Called) -> None:
    (folder / "c.safetensors").write_text("mine")
    arguments = ("align", "a.safetensors", "b.safetensors", "-m", "nets:make", *INPUTS, "-o", "c.safetensors")
    code, _, errors = called(*arguments, cwd=folder)
    assert code == 3
    assert "--force" in errors
    assert (folder / "c.safetensors").read_text() == "mine"
    assert called(*arguments, "--force", cwd=folder)[0] == 0
    assert set(load_file(folder / "c.safetensors")) == set(load_file(folder / "a.safetensors"))


def test_data_can_come_from_a_function(folder: Path, called: Called) -> None:
    (folder / "own.py").write_text(DATA)
    arguments = ("barrier", "a.safetensors", "b.safetensors", "-m", "nets:make", *INPUTS, "--points", "3")
    code, output, errors = called(*arguments, "--data", "own:splits", "-d", "scale=0.5", "-d", "count=20", cwd=folder)
    assert code == 0, errors
    assert "the loss at the midpoint:" in output
    assert called(*arguments, "--data", "own:tensors", cwd=folder)[0] == 0
    code, _, errors = called(*arguments, "--data", "own:nothing", cwd=folder)
    assert code == 2
    assert "a pair or mapping (train, test)" in errors
    code, _, errors = called(*arguments, "--data", "own:splits", "-d", "wrong=1", cwd=folder)
    assert code == 2
    assert "unexpected keyword argument 'wrong'" in errors


def test_the_barrier_needs_networks_of_equal_shapes(folder: Path, called: Called) -> None:
    (folder / "own.py").write_text(DATA)
    tensors = load_file(folder / "b.safetensors")
    wider = {name: torch.cat([tensors[name], tensors[name][:2]]) for name in ("4.weight", "4.bias")}
    save_file({**tensors, **wider}, folder / "wider.safetensors")
    arguments = ("barrier", "a.safetensors", "wider.safetensors", "-m", "nets:make", *INPUTS, "--data", "own:splits")
    code, _, errors = called(*arguments, cwd=folder)
    assert code == 2
    assert "`4.weight` [12, 12] instead of [10, 12]" in errors
    code, output, errors = called(*arguments, "--resized", "keep", cwd=folder)
    assert (code, output) == (2, "")
    assert "wider.safetensors has missing tensors or another vocabulary than a.safetensors" in errors
    assert errors.count("\n") == 1


def test_data_sets_have_the_same_options_as_in_run_files(folder: Path, called: Called) -> None:
    arguments = ("barrier", "a.safetensors", "b.safetensors", "-m", "nets:make", *INPUTS, "--data")
    for given in (["mnist", "-d", "mean=0", "-d", "deviation=1"], ["{name: mnist, mean: 0, deviation: 1}"]):
        code, _, errors = called(*arguments, *given, cwd=folder)
        assert code == 2
        assert "train-images-idx3-ubyte.gz" in errors  # the options are valid, but the files are missing
    for given, message in (
        (["mnist", "-d", "deviation=0"], "deviation"),
        (["mnist", "-d", "scale=2"], "scale"),
        (["mnist", "-d", "deviation"], "expected key=value"),
        (["{name: mnist"], "--data"),
        (["mnst"], "did you mean 'mnist'"),
    ):
        code, output, errors = called(*arguments, *given, cwd=folder)
        assert code == 2
        assert message in errors
        assert "Traceback" not in errors + output


def test_align_prints_the_loss_at_the_midpoint(folder: Path, called: Called) -> None:
    (folder / "own.py").write_text(DATA)
    arguments = ("align", "a.safetensors", "b.safetensors", "-m", "nets:make", *INPUTS, "-o", "c.safetensors")
    code, output, errors = called(*arguments, "--data", "own:splits", "--keep", "aligned", cwd=folder)
    assert code == 0, errors
    assert "loss at the midpoint" in output
    code, output, errors = called(*arguments, "--force", cwd=folder)
    assert code == 0, errors
    assert "loss at the midpoint" not in output


@pytest.mark.parametrize("width", [50, 80])
def test_tables_fit_the_terminal(folder: Path, called: Called, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    (folder / "own.py").write_text(DATA)
    monkeypatch.setenv("COLUMNS", str(width))
    arguments = ("barrier", "a.safetensors", "b.safetensors", "-m", "nets:make", *INPUTS, "--points", "3")
    code, output, errors = called(*arguments, "--data", "own:splits", cwd=folder)
    assert code == 0, errors
    table = [line for line in output.splitlines() if not line.startswith("`")]
    assert max(len(line) for line in table) <= width
    assert sum(line.startswith("unaligned") for line in table) > 1


def test_wrong_preprocessing_gives_a_warning(folder: Path, called: Called) -> None:
    (folder / "own.py").write_text(DATA)
    arguments = ("barrier", "a.safetensors", "b.safetensors", "-m", "nets:make", *INPUTS, "--points", "3")
    with warnings.catch_warnings():
        warnings.resetwarnings()  # as in a process of its own
        code, _, errors = called(*arguments, "--data", "own:splits", "-d", "scale=50", cwd=folder)
    assert code == 0
    assert errors.count("no better than the best prediction that ignores the inputs") == 1
