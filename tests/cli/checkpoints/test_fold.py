"""The command `rebasin fold`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from tests.api.checkpoints.test_folding import written

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Called

NETS = """
from tests.api.checkpoints.test_folding import gpt, tied
"""
MODEL = ("-m", "nets:gpt", "-i", "2,5:int<11")
TIED = ("-m", "nets:tied", "-i", "2,5:int<11")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    written(tmp_path / "a.safetensors", "gpt")
    written(tmp_path / "t.safetensors", "tied")
    return tmp_path


def test_fold_and_undo(folder: Path, called: Called) -> None:
    code, output, errors = called("fold", "a.safetensors", *MODEL, "--shifts", "-o", "b.safetensors", cwd=folder)
    assert (code, errors) == (0, "")
    assert "folded scales: `blocks.0.norm1.weight`" in output
    assert "function kept" in output
    assert "written: b.safetensors" in output
    assert "written: b.folding.safetensors" in output
    folded = load_file(folder / "b.safetensors")
    assert bool((folded["norm.weight"] == 1).all())
    assert not folded["norm.bias"].any()
    code, output, errors = called(
        "fold", "b.safetensors", "--undo", "b.folding.safetensors", "-o", "c.safetensors", cwd=folder
    )
    assert (code, output, errors) == (0, "written: c.safetensors\n", "")
    found = load_file(folder / "c.safetensors")
    for name, tensor in load_file(folder / "a.safetensors").items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=2e-6)


def test_the_report_contains_the_option_to_untie(folder: Path, called: Called) -> None:
    code, output, errors = called("fold", "t.safetensors", *TIED, "-o", "b.safetensors", "--json", cwd=folder)
    assert (code, errors) == (0, "")
    report = json.loads(output)
    assert report["complete"] is False
    assert "(--untie)" in report["kept"]["norm.weight"]
    code, output, _ = called("fold", "t.safetensors", *TIED, "--untie", "-o", "c.safetensors", "--json", cwd=folder)
    assert code == 0
    assert json.loads(output)["complete"] is True
    assert json.loads(output)["files"] == ["c.safetensors", "c.folding.safetensors"]
    assert "head.weight" in load_file(folder / "c.safetensors")
    assert called("fold", "t.safetensors", *TIED, "-o", "d.safetensors", "--quiet", cwd=folder) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.safetensors", "-o", "b.safetensors"), "package.module:name"),
        (("a.safetensors", *MODEL, "-o", "a.safetensors", "--force"), "is also an input"),
        (("a.safetensors", *MODEL, "-o", "b.pt"), "outputs are safetensors files"),
        (("a.safetensors", "--shifts", "--undo", "x.safetensors", "-o", "b.safetensors"), "--shifts cannot be given"),
        (("a.safetensors", "--undo", "t.safetensors", "-o", "b.safetensors"), "t.safetensors"),
        (("a.safetensors", "--undo", "none.safetensors", "-o", "b.safetensors"), "none.safetensors"),
        (("t.safetensors", *MODEL, "-o", "b.safetensors"), "head.weight"),
    ],
)
def test_wrong_values_are_one_message_and_leave_no_files(
    folder: Path, called: Called, arguments: tuple[str, ...], message: str
) -> None:
    before = {path.name for path in folder.iterdir()}
    code, output, errors = called("fold", *arguments, cwd=folder)
    assert code != 0
    assert not output
    assert message in errors
    assert "Traceback" not in errors
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == before
