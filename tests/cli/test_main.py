"""The command `rebasin`, in this process and, where its exit code or its plugins matter, in a new one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Called, rebasin

RUN = """
data: digits
architecture: {name: mlp, hidden: [16]}
inference: {name: map, epochs: 2}
matchers: [weight]
barrier: {name: pointwise, num_points: 3}
num_train: 200
"""


def test_a_run_prints_a_table_and_writes_figures(tmp_path: Path, called: Called) -> None:
    (tmp_path / "small.yaml").write_text(RUN)
    code, output, errors = called("run", "small.yaml", "--no-progress", cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert "unaligned" in output
    assert "Lowest barrier: `weight`, from" in output
    assert (tmp_path / "runs/small/figures/barrier_test.png").is_file()
    report = tmp_path / "runs/small/report.html"
    before = report.read_bytes()
    report.unlink()
    _, output, _ = called("report", "runs/small", cwd=tmp_path)
    assert output.strip() == "runs/small/report.html"
    assert report.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "bad.yaml"], 2, "bad.yaml:4: inference.epoch: unknown option; did you mean 'epochs'?"),
        (["run", "small.yaml", "--device", "tpu9"], 2, "the device 'tpu9' is not available"),
        (["check", "rebasin-core", "--device", "tpu9"], 2, "the device 'tpu9' is not available"),
        (["run", "small.yaml", "-o", "small.yaml/out"], 3, "cannot"),
        (["run", "mnist.yaml"], 2, "looked for"),
        (["rnu"], 2, "No such command"),
        (["run"], 2, "Missing argument"),
        (["report", "small.yaml"], 2, "is not the folder of a finished run"),
        (["check", "no-such-package"], 1, "no plugin of that name is installed"),
    ],
)
def test_invalid_arguments_print_one_message_and_set_the_exit_code(
    tmp_path: Path, called: Called, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "small.yaml").write_text(RUN)
    (tmp_path / "bad.yaml").write_text(RUN.replace("epochs", "epoch"))
    (tmp_path / "mnist.yaml").write_text(RUN.replace("digits", "{name: mnist, root: none}"))
    before = sorted(path.name for path in tmp_path.iterdir())
    found, output, errors = called(*arguments, cwd=tmp_path)
    assert found == code
    assert message in errors
    assert "Traceback" not in errors + output
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_diverged_training_has_exit_code_1(tmp_path: Path, called: Called) -> None:
    text = RUN + "reference: {seed: 1, inference: {name: map, epochs: 1, optimizer: {name: SGD, lr: 1.0e+30}}}\n"
    (tmp_path / "diverging.yaml").write_text(text)
    code, _, errors = called("run", "diverging.yaml", "-o", "out", cwd=tmp_path)
    assert code == 1
    assert "training diverged: the loss in epoch 1 is not finite" in errors
    assert "Traceback" not in errors


def test_the_process_ends_with_the_exit_code(tmp_path: Path) -> None:
    done = rebasin("run", "nothing.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: cannot read nothing.yaml")
    assert not done.stdout


def test_plugins_and_schema(tmp_path: Path, called: Called) -> None:
    listed = rebasin("plugins", cwd=tmp_path)
    assert "rebasin-core" in listed.stdout
    assert {"kl,", "wasserstein,", "weight"} <= set(listed.stdout.split())
    _, schema, _ = called("schema", cwd=tmp_path)
    assert "matchers" in json.loads(schema)["properties"]
    _, schema, _ = called("schema", "--study", cwd=tmp_path)
    assert "seeds" in json.loads(schema)["properties"]


def test_interruption_prints_how_to_resume(tmp_path: Path) -> None:
    import signal  # ruff: ignore[import-outside-top-level] - here only
    import time  # ruff: ignore[import-outside-top-level] - here only

    (tmp_path / "long.yaml").write_text(RUN.replace("epochs: 2", "epochs: 100000"))
    command = [sys.executable, "-m", "rebasin_core", "run", "long.yaml"]
    # A shell's background jobs, and their child processes, ignore the signal by default.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 60
    unfinished = tmp_path / "runs/long/store/unfinished"
    while not list(unfinished.rglob("*.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(unfinished.rglob("*.safetensors"))  # training has started
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again" in errors
    assert "Traceback" not in errors


MODELS = """
import torch
from torch import nn

def cnn():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))

class Broken(nn.Module):
    def forward(self, x):
        return x.undefined

class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(50, 6), nn.Linear(6, 3)
    def forward(self, *, tokens):
        return self.head(self.embed(tokens).tanh())

number = 3
"""


def test_spec_prints_axes_coverage_and_check_and_writes_a_file(tmp_path: Path, called: Called) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    code, output, errors = called("spec", "models:cnn", "--input", "2,3,8,8", "-o", "cnn.json", cwd=tmp_path)
    assert code == 0, errors
    assert "5, units.0*36" in output
    assert "log10 of the group order: 1.4" in output
    assert "fixed, positions are mixed by a kernel (conv2d): 0.weight[2], 0.weight[3], 4.weight[1]" in output
    assert "function preserved" in output
    assert json.loads((tmp_path / "cnn.json").read_text())["axes"]["1.running_var"] == "units.0"


def test_spec_accepts_integer_keyword_inputs(tmp_path: Path, called: Called) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    code, output, errors = called(
        "spec", "models:Words", "-k", "tokens=2,7:int<50", "--freeze", "head.bias", cwd=tmp_path
    )
    assert code == 0, errors
    assert "its entries are looked up by index (embedding): embed.weight[0]" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["models:Broken", "-i", "2,3"],
            "Broken cannot be run on the example inputs, in",
        ),
        (["models:cnn", "-i", "2,3,8,8", "--freeze", "9.*"], "no parameter or buffer matches"),
    ],
)
def test_invalid_arguments_of_spec_print_one_message(
    tmp_path: Path, called: Called, arguments: list[str], message: str
) -> None:
    (tmp_path / "models.py").write_text(MODELS)
    code, output, errors = called("spec", *arguments, "-o", "spec.json", cwd=tmp_path)
    assert code == 2
    assert message in errors
    assert "Traceback" not in errors + output
    assert not (tmp_path / "spec.json").exists()
