"""Models given on the command line."""

from __future__ import annotations

import torch
from torch import nn

from rebasin_core.errors import InvalidInputError
from rebasin_core.isolation import isolated, load_object


def load_model(reference: str, *, meta: bool = False) -> nn.Module:
    """Import a factory and return the model that it makes.

    Args:
        reference: ``package.module:factory``; the current folder is searched too. The factory is a function or class
            that is called without arguments and returns a `torch.nn.Module`, or is itself a `torch.nn.Module`.
        meta: Whether to make the model on the meta device, without memory.

    Returns:
        The model.

    Raises:
        InvalidInputError: If the factory cannot be imported, fails, or does not return a module.
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
