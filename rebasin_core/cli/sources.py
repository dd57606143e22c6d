"""Models and inputs named on the command line."""

from __future__ import annotations

import importlib
import math
import re
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from rebasin_core.errors import InvalidInputError
from rebasin_core.plugin.isolation import isolated
from rebasin_core.tensors.bounds import MAX_DIGITS, MAX_TRACED_NUMBERS
from rebasin_core.tensors.reading import shown

_INPUT = re.compile(r"(?P<shape>\d+(?:,\d+)*)(?::(?P<kind>float|int|bool)(?:<(?P<bound>\d+))?)?", re.ASCII)
_MOST_DIMENSIONS = 16
_LARGEST_BOUND = 2**62
_FORM = "expected a shape such as 2,3,224,224, or for whole numbers 2,16:int<1000, or 2,16:bool"


def load_model(reference: str, *, meta: bool = False) -> nn.Module:
    """Return the model that a function of an importable module makes.

    Args:
        reference: ``package.module:factory``; the current folder is searched too. The factory takes no arguments and
            returns a module; it may be a class, or a module itself.
        meta: Whether to make it on the meta device, where nothing is allocated.

    Returns:
        The model.

    Raises:
        InvalidInputError: If it cannot be imported, made, or is no module.
    """
    found = load_object(reference, "a model")
    model: object = None
    with isolated() as attempt, torch.device("meta" if meta else "cpu"):
        model = found() if callable(found) and not isinstance(found, nn.Module) else found
    if attempt.error is not None:
        message = f"cannot make a model from {reference}: {attempt.problem}"
        raise InvalidInputError(message) from attempt.error
    if not isinstance(model, nn.Module):
        message = f"expected {reference} to return a torch.nn.Module, got {type(model).__name__}"
        raise InvalidInputError(message)
    return model


def load_object(reference: str, what: str) -> object:
    """Return an object of an importable module.

    Args:
        reference: ``package.module:name``; the current folder is searched too.
        what: What it is to make, for the message.

    Returns:
        The object.

    Raises:
        InvalidInputError: If it cannot be imported.
    """
    name, colon, attribute = reference.partition(":")
    if not (name and colon and attribute):
        message = f"expected package.module:factory, got {reference!r}"
        raise InvalidInputError(message)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    found: object = None
    with isolated() as attempt:
        found = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    if attempt.error is not None:
        message = f"cannot make {what} from {reference}: {attempt.problem}"
        raise InvalidInputError(message) from attempt.error
    return found


def parse_input(text: str) -> Tensor:
    """Return a random input described on the command line.

    Args:
        text: A shape; ``:int<N`` for whole numbers less than ``N`` (2 if not given), ``:bool`` for truth values.

    Returns:
        The input.

    Raises:
        InvalidInputError: If the text has another form.

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
    # Each number before the product, which may have more digits than can be written.
    if len(shape) > _MOST_DIMENSIONS or math.prod(shape) > MAX_TRACED_NUMBERS or not 1 <= bound <= _LARGEST_BOUND:
        message = (
            f"{_FORM}, of at most {_MOST_DIMENSIONS} dimensions and {MAX_TRACED_NUMBERS} numbers below a bound from 1 "
            f"to {_LARGEST_BOUND}; got {shown(text)}"
        )
        raise InvalidInputError(message)
    generator = torch.Generator().manual_seed(0)
    if found["kind"] in {None, "float"}:
        return torch.randn(shape, generator=generator)
    numbers = torch.randint(bound, shape, generator=generator)
    return numbers.bool() if found["kind"] == "bool" else numbers


def _number(digits: str) -> int:
    """Return a whole number; one that is larger than all that are allowed for more digits than any of these has."""
    return int(digits) if len(digits) <= MAX_DIGITS + 4 else sys.maxsize


def parse_named_inputs(texts: tuple[str, ...]) -> dict[str, Tensor]:
    """Return inputs given by name on the command line.

    Args:
        texts: Each ``name=shape``.

    Returns:
        The inputs by name.

    Raises:
        InvalidInputError: If one has another form.
    """
    found: dict[str, Tensor] = {}
    for text in texts:
        name, equals, shape = text.partition("=")
        if not (equals and name.isidentifier()):
            message = f"expected name=shape, such as input_ids=2,16:int<1000, got {text!r}"
            raise InvalidInputError(message)
        found[name] = parse_input(shape)
    return found
