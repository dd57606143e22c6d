"""Commands for checkpoints: exit codes, JSON, messages of one line, and files that remain."""

from __future__ import annotations

import json
from contextlib import nullcontext
from operator import itemgetter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import rebasin_core as rc
from rebasin_core.symmetry import Symmetry
from tests.api.checkpoints.networks import MLP, noisy, write
from tests.cli.conftest import Called, rebasin
from tests.pretend import NAME, PretendedDevice

MODEL = ("-m", str(MLP.source["factory"]), "-i", "5,8")
PAIR = ("a.safetensors", "b.safetensors")
INPUTS = {"a.safetensors", "b.safetensors", "r.safetensors"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network, a permuted noisy copy, and an unrelated network."""
    write(tmp_path / "a.safetensors", MLP.network())
    write(tmp_path / "b.safetensors", MLP.permuted(noisy(MLP.network(), 0.02), MLP.orders()))
    write(tmp_path / "r.safetensors", MLP.network(seed=4))
    return tmp_path


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - INPUTS


def test_all_commands_in_one_session(folder: Path, called: Called) -> None:
    code, output, errors = called("align", *PAIR, *MODEL, "-o", "o.safetensors", "--json", cwd=folder)
    assert (code, errors) == (0, "")
    record = json.loads(output)
    assert record["relation"] == "related"
    assert record["files"] == ["o.safetensors", "o.permutation.safetensors"]
    assert record["total"]["distance_after"] < 0.2
    assert record["total"]["distance_before"] > 1

    code, output, _ = called("diff", *PAIR, "--verify", "o.safetensors", cwd=folder)
    assert (code, output) == (0, "verified: o.safetensors\n")
    code, output, _ = called("diff", "a.safetensors", "r.safetensors", "--verify", "o.safetensors", cwd=folder)
    assert code == 1
    assert "is not the file of the alignment" in output
    code, output, _ = called(
        "diff", "a.safetensors", "r.safetensors", "--verify", "o.safetensors", "--json", cwd=folder
    )
    assert code == 1
    assert len(json.loads(output)["problems"]) == 1

    assert called("invert", "o.permutation.safetensors", "-o", "inverse.safetensors", cwd=folder)[0] == 0
    assert called("apply", "inverse.safetensors", "o.safetensors", "-o", "back.safetensors", cwd=folder)[0] == 0
    code, output, _ = called(
        "apply", "o.permutation.safetensors", "o.safetensors", "--inverse", "-o", "back", cwd=folder
    )
    assert output == "written: back/model.safetensors\nwritten: back/rebasin_permutation.safetensors\n"
    given = rc.Permutation.load(folder / "o.permutation.safetensors")
    rc.SymmetryElement(Symmetry(given.layout), given, []).save(folder / "element.safetensors")
    assert called("invert", "element.safetensors", "-o", "e.safetensors", cwd=folder)[0] == 0
    assert called("apply", "e.safetensors", "o.safetensors", "-o", "element_back.safetensors", cwd=folder)[0] == 0
    expected = load_file(folder / "b.safetensors")
    for path in ("back.safetensors", "back/model.safetensors", "element_back.safetensors"):
        found = load_file(folder / path)
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_reports(folder: Path, called: Called) -> None:
    code, output, errors = called("diff", *PAIR, *MODEL, cwd=folder)
    assert (code, errors) == (0, "")
    assert "units.* (x2)" in output
    assert "Check: function kept" in output
    assert output.splitlines()[-1].startswith("Verdict: related")
    code, output, _ = called("diff", *PAIR, *MODEL, "--full", "--no-chance", "--no-check", cwd=folder)
    assert [line.split()[0] for line in output.splitlines() if line.startswith("units")] == ["units.0", "units.2"]
    assert "Check" not in output
    code, output, errors = called("diff", *PAIR, *MODEL, "--quiet", cwd=folder)
    assert (code, output, errors) == (0, "", "")
    code, output, _ = called("diff", "a.safetensors", "r.safetensors", *MODEL, "--json", cwd=folder)
    assert json.loads(output)["relation"] in {"chance", "independent"}
    assert json.loads(output)["files"] == []
    assert files(folder) == set()


def test_a_recipe_with_an_output_of_the_command_line(folder: Path, called: Called) -> None:
    (folder / "recipes").mkdir()
    model = json.dumps(MLP.source)
    (folder / "recipes" / "r.yaml").write_text(
        f"command: merge\ncheckpoints: [../a.safetensors, ../b.safetensors]\nmodel: {model}\nweights: [0, 1]\n"
    )
    code, output, errors = called("recipe", "recipes/r.yaml", "-o", "m.safetensors", cwd=folder)
    assert code == 0, errors
    assert "written: m.safetensors" in output
    found, expected = load_file(folder / "m.safetensors"), noisy(MLP.network(), 0.02)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with safe_open(folder / "m.safetensors", framework="pt") as handle:
        assert json.loads(handle.metadata()["rebasin"])["recipe"]["weights"] == [0.0, 1.0]
    code, _, errors = called("recipe", "recipes/r.yaml", "-o", "m.safetensors", cwd=folder)
    assert code == 3
    assert "--force" in errors
    assert called("recipe", "recipes/r.yaml", "-o", "m.safetensors", "--force", "--quiet", cwd=folder)[:2] == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", "-3"], "--seed: expected a value greater than or equal to 0, got -3"),
        (["--max-shard", "0"], "--max-shard: expected a value greater than 0, got 0"),
        (["--max-shard", "big"], "--max-shard: expected a size such as 8GB or 500MB, got 'big'"),
        (["--memory", "0"], "--memory: expected a value greater than 0, got 0"),
        (["--memory", "300MB"], "are allowed"),
        (["--matcher", "{name: weight, sweeps: 3}"], "--matcher: matcher.sweeps: unknown option; did you mean"),
        (["--matcher", "{name: weight"], "--matcher"),
        (["--freeze", "absent*"], "no parameter or buffer matches 'absent*'"),
        (["-k", "tokens"], "expected NAME=SHAPE for --kwarg"),
        (["-i", "5,x"], "5,x"),
        (["--prefix", "student."], "student."),
        (["--spec", "a.safetensors"], "a.safetensors"),
        (["--data", "absent"], "absent"),
    ],
)
def test_wrong_values_are_one_line_and_leave_no_files(
    folder: Path, called: Called, arguments: list[str], message: str
) -> None:
    code, output, errors = called("align", *PAIR, *MODEL, "-o", "o.safetensors", *arguments, cwd=folder)
    assert (code, output) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert files(folder) == set()


@pytest.mark.parametrize(
    "command",
    [
        ("align", *PAIR, *MODEL, "-o", "o.safetensors"),
        ("merge", *PAIR, *MODEL, "-o", "o.safetensors"),
        ("diff", *PAIR, *MODEL),
        ("barrier", *PAIR, *MODEL, "--data", "digits"),
        ("apply", "p.safetensors", "a.safetensors", "-o", "o.safetensors"),
    ],
    ids=itemgetter(0),
)
def test_devices_that_are_not_available_are_one_line(folder: Path, called: Called, command: tuple[str, ...]) -> None:
    code, output, errors = called(*command, "--device", "tpu9", cwd=folder)
    assert (code, output) == (2, "")
    assert "the device 'tpu9' is not available" in errors
    assert errors.count("\n") == 1
    assert files(folder) == set()


def test_commands_on_a_device_write_the_files_of_the_cpu(folder: Path, called: Called) -> None:
    for device in ("cpu", NAME):
        with PretendedDevice() if device == NAME else nullcontext() as used:
            output = f"{device}.safetensors"
            code, _, errors = called("align", *PAIR, *MODEL, "-o", output, "--device", device, cwd=folder)
            assert (code, errors) == (0, "")
            code, _, errors = called("merge", *PAIR, "--no-align", "-o", f"m_{output}", "--device", device, cwd=folder)
            assert (code, errors) == (0, "")
            permutation = f"{device}.permutation.safetensors"
            code, _, errors = called(
                "apply", permutation, output, "--inverse", "-o", f"i_{output}", "--device", device, cwd=folder
            )
            assert (code, errors) == (0, "")
    assert used is not None
    assert used.copied > 0
    for prefix in ("", "m_", "i_"):
        found = load_file(folder / f"{prefix}{NAME}.safetensors")
        expected = load_file(folder / f"{prefix}cpu.safetensors")
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("option", ["--sede", "--devise"])
def test_unknown_options_are_named(folder: Path, called: Called, option: str) -> None:
    code, _, errors = called("align", *PAIR, *MODEL, "-o", "o.safetensors", option, "3", cwd=folder)
    assert code == 2
    assert f"No such option '{option}'" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("arguments", [("diff", *PAIR, *MODEL), ("merge", *PAIR, "-o", "m.safetensors", "--no-align")])
def test_commands_run_as_programs(folder: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    done = rebasin(*arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "Verdict: related" in done.stdout or "written: m.safetensors" in done.stdout
