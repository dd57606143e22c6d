"""Random inputs of models, described by texts."""

from __future__ import annotations

import math
import re
import sys
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.bounds import MAX_DIGITS, MAX_TRACED_NUMBERS
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Iterable

_INPUT = re.compile(r"(?P<shape>\d+(?:,\d+)*)(?::(?P<kind>float|int|bool)(?:<(?P<bound>\d+))?)?", re.ASCII)
_MAX_DIMENSIONS = 16
_MAX_BOUND = 2**62
_FORM = "expected a shape such as 2,3,224,224, or 2,16:int<1000 for integers, or 2,16:bool"


def parse_input(text: str) -> Tensor:
    """Return a random input of a given shape and type.

    Args:
        text: Comma-separated shape, followed by ``:int<N`` for integers in [0, N) (``:int`` for N = 2) or by ``:bool``;
            standard normal entries without a suffix.

    Returns:
        The input; the same for equal texts.

    Raises:
        InvalidInputError: If the text has another form, or the input would be too large.

    Examples:
        >>> tuple(parse_input("2,16:int<50").shape)
        (2, 16)
    """
    found = _INPUT.fullmatch(text.replace(" ", ""))
    if found is None:
        message = f"{_FORM}, got {shown(text)}"
        raise InvalidInputError(message)
    shape = [_number(length) for length in found["shape"].split(",")]
    bound = _number(found["bound"] or "2")
    # Python cannot convert integers of more than a few thousand digits to text, so each length is bounded first.
    if len(shape) > _MAX_DIMENSIONS or math.prod(shape) > MAX_TRACED_NUMBERS or not 1 <= bound <= _MAX_BOUND:
        message = (
            f"{_FORM}, with at most {_MAX_DIMENSIONS} dimensions and {MAX_TRACED_NUMBERS} elements, and a bound from 1 "
            f"to {_MAX_BOUND}; got {shown(text)}"
        )
        raise InvalidInputError(message)
    generator = torch.Generator().manual_seed(0)
    if found["kind"] in {None, "float"}:
        return torch.randn(shape, generator=generator)
    numbers = torch.randint(bound, shape, generator=generator)
    return numbers.bool() if found["kind"] == "bool" else numbers


def _number(digits: str) -> int:
    """Return an integer; `sys.maxsize`, which exceeds every limit, if it has too many digits."""
    return int(digits) if len(digits) <= MAX_DIGITS + 4 else sys.maxsize


def parse_named_inputs(texts: Iterable[str]) -> dict[str, Tensor]:
    """Return random keyword inputs.

    Args:
        texts: Inputs of the form ``name=shape``; see `parse_input`.

    Returns:
        The inputs by name.

    Raises:
        InvalidInputError: If a text has another form.
    """
    found: dict[str, Tensor] = {}
    for text in texts:
        name, equals, shape = text.partition("=")
        if not (equals and name.isidentifier()):
            message = f"expected name=shape, such as input_ids=2,16:int<1000, got {text!r}"
            raise InvalidInputError(message)
        found[name] = parse_input(shape)
    return found
