"""Models and inputs named on the command line."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from rebasin_core.errors import InvalidInputError

_INPUT = re.compile(r"(?P<shape>\d+(?:,\d+)*)(?::(?P<kind>float|int|bool)(?:<(?P<bound>\d+))?)?")
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
    found = load_object(reference)
    try:
        with torch.device("meta" if meta else "cpu"):
            model = found() if callable(found) and not isinstance(found, nn.Module) else found
    except Exception as error:
        message = f"cannot make a model from {reference}: {type(error).__name__}: {error}"
        raise InvalidInputError(message) from error
    if not isinstance(model, nn.Module):
        message = f"expected {reference} to return a torch.nn.Module, got {type(model).__name__}"
        raise InvalidInputError(message)
    return model


def load_object(reference: str) -> object:
    """Return an object of an importable module.

    Args:
        reference: ``package.module:name``; the current folder is searched too.

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
    try:
        found: object = importlib.import_module(name)
        for part in attribute.split("."):
            found = getattr(found, part)
    except Exception as error:
        message = f"cannot import {reference}: {type(error).__name__}: {error}"
        raise InvalidInputError(message) from error
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
        message = f"{_FORM}, got {text!r}"
        raise InvalidInputError(message)
    shape = [int(length) for length in found["shape"].split(",")]
    generator = torch.Generator().manual_seed(0)
    if found["kind"] in {None, "float"}:
        return torch.randn(shape, generator=generator)
    numbers = torch.randint(int(found["bound"] or 2), shape, generator=generator)
    return numbers.bool() if found["kind"] == "bool" else numbers


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
