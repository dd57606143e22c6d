"""Models given on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from rebasin_core.cli.sources import load_model
from rebasin_core.errors import InvalidInputError


def test_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "networks_of_a_user.py").write_text("from torch import nn\nnet = nn.Linear(2, 3)\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_model("networks_of_a_user:net"), nn.Linear)
    assert load_model("torch.nn:Identity", meta=True).training
    for reference, message in [
        ("models", "expected package.module:factory"),
        (":net", "expected package.module:factory"),
        ("nowhere_at_all:net", "No module named"),
        ("networks_of_a_user:nets", "no attribute 'nets'"),
        ("torch.nn:Linear", "missing"),
        ("networks_of_a_user:number", "to return a torch.nn.Module, got int"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            load_model(reference)
