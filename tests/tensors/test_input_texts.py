"""Random inputs described by texts."""

from __future__ import annotations

import pytest
import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.input_texts import parse_input, parse_named_inputs


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
