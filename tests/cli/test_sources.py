"""Models and example inputs given on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from rebasin_core.cli.sources import load_model, parse_input, parse_named_inputs
from rebasin_core.errors import InvalidInputError


def test_inputs() -> None:
    assert parse_input("2, 3,4").shape == (2, 3, 4)
    numbers = parse_input("5,100:int<7")
    assert numbers.dtype == torch.int64
    assert set(numbers.flatten().tolist()) == set(range(7))
    assert set(parse_input("50:int").tolist()) == {0, 1}
    assert parse_input("50:bool").dtype == torch.bool
    assert parse_named_inputs(("a=2,3", "b=4:int<9"))["b"].shape == (4,)


@pytest.mark.parametrize("text", ["", "2,x", "2,3:long", "2,,3", "-1,3", "2,3:int<"])
def test_invalid_inputs_are_errors(text: str) -> None:
    with pytest.raises(InvalidInputError, match="expected a shape"):
        parse_input(text)


@pytest.mark.parametrize("text", ["2,3", "=2,3", "a b=2,3"])
def test_invalid_keyword_inputs_are_errors(text: str) -> None:
    with pytest.raises(InvalidInputError, match="expected name=shape"):
        parse_named_inputs((text,))


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
