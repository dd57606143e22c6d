"""Errors for models and example inputs that cannot be traced, with a remedy."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from rebasin_core.errors import SpecError
from rebasin_core.tensors.modules import named_tensors, shared_copy
from rebasin_core.tensors.trees import tree_leaves, tree_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BY_HAND = "write the specification by hand with `table_spec`"


def require_module(model: object) -> None:
    """Raise an error for a model that no method can trace, before it is run.

    Args:
        model: The argument to check.

    Raises:
        SpecError: If it is not a module, is compiled to TorchScript, has lazy parameters, or has packed weights.
    """
    if not isinstance(model, nn.Module):
        found = f"a {type(model).__name__}"
        if isinstance(model, type) and issubclass(model, nn.Module):
            found = f"the class {model.__name__}; create an instance"
        message = f"expected a torch.nn.Module as the model, got {found}"
        raise SpecError(message)
    for name, module in model.named_modules():
        problem = _untraceable(module)
        if problem is not None:
            where = f"its module {name!r}, a {type(module).__name__}," if name else "it"
            message = f"{type(model).__name__} cannot be traced: {where} {problem}"
            raise SpecError(message)
    lazy = [name for name, tensor in named_tensors(model).items() if is_lazy(tensor)]
    if lazy:
        message = (
            f"{type(model).__name__} cannot be traced: {lazy[0]!r} is a lazy parameter without a shape; run the model "
            "on one batch before tracing it"
        )
        raise SpecError(message)


def _untraceable(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "is compiled to TorchScript; trace the original module"
    if "quantized" in type(module).__module__.split(".") and not list(module.parameters(recurse=False)):
        return (
            "stores quantized, packed weights instead of parameters; trace and align the model before quantization, "
            "and quantize the aligned model"
        )
    return None


def require_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise an error for inputs that do not fit the signature of the model's ``forward``.

    Args:
        model: The model.
        args: Positional inputs.
        kwargs: Keyword inputs.

    Raises:
        SpecError: If inputs are missing, superfluous or of unknown names, or are arrays or a shape instead of tensors.
    """
    leaves = tree_leaves((args, dict(kwargs)))
    arrays = [type(leaf) for leaf in leaves if type(leaf).__module__.partition(".")[0] in {"numpy", "pandas", "jax"}]
    if arrays:
        found = f"{arrays[0].__module__.partition('.')[0]}.{arrays[0].__name__}"
        message = f"expected tensors as example inputs, got a {found}; pass `torch.as_tensor(...)`"
        raise SpecError(message)
    if args and all(isinstance(leaf, int) and not isinstance(leaf, bool) for leaf in leaves):
        message = f"expected tensors as example inputs, got integers {args}; for a shape, pass `torch.zeros({args})`"
        raise SpecError(message)
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = f"{len(args)} positional" + (f", keywords {', '.join(map(repr, kwargs))}" if kwargs else "")
        names = ", ".join(map(str, signature.parameters.values()))
        message = (
            f"{type(model).__name__}.forward({names}) does not accept the example inputs ({given}): {error}. Pass "
            "several positional inputs as a tuple, and keyword inputs as `kwargs`"
        )
        raise SpecError(message) from None


def require_outputs(model: nn.Module, outputs: Sequence[object]) -> None:
    """Raise an error for a model that returns no tensors, because every permutation would preserve its outputs.

    Args:
        model: The model.
        outputs: The tensors among the outputs of its graph.

    Raises:
        SpecError: If there are no tensors.
    """
    if not outputs:
        message = (
            f"expected a model that returns tensors, got no tensor in the output of {type(model).__name__}; wrap it in "
            "a module that returns tensors"
        )
        raise SpecError(message)


def failure(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], errors: Mapping[str, Exception]
) -> SpecError:
    """Return the error for a model that could not be captured.

    Args:
        model: The model.
        args: Positional inputs.
        kwargs: Keyword inputs.
        errors: The exception of each method that was tried.

    Returns:
        An error that distinguishes failures of the model from failures of tracing, with a remedy.
    """
    name = type(model).__name__
    own = _error_of(model, args, kwargs)
    if own is not None:
        message = f"{name} cannot be run on the example inputs, in evaluation mode: {summary(own)}"
        return SpecError(f"{message}. {_remedy_for_model(model, own)}")
    tried = "; ".join(f"by {method}: {summary(error)}" for method, error in errors.items())
    message = f"{name} runs on the example inputs, but cannot be traced {tried}"
    return SpecError(f"{message}. {_remedy_for_tracing(args, kwargs, errors)}")


def summary(error: Exception) -> str:
    """Return the type and the first line of an exception.

    Args:
        error: The exception.

    Returns:
        The type, followed by at most 200 characters of the message.
    """
    first = str(error).strip().partition("\n")[0].rstrip(".: ")
    return f"{type(error).__name__}: {first if len(first) <= 200 else first[:200] + ' ...'}".rstrip(": ")


def _error_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exception | None:
    """Run the model in evaluation mode and return its exception, if any."""
    try:
        with torch.no_grad():
            shared_copy(model).eval()(*args, **kwargs)
    except Exception as error:  # ruff: ignore[blind-except] - the model's code may raise anything
        return error
    return None


def _remedy_for_model(model: nn.Module, error: Exception) -> str:
    """Return advice for a model that cannot be run."""
    if any(tensor.is_meta for tensor in model.parameters()):
        return "It is on the meta device, where tensors have no values; create it on the CPU"
    text = str(error).lower()
    advice = next((advice for words, advice in _ADVICE if any(word in text for word in words)), None)
    dtypes = sorted({str(tensor.dtype) for tensor in model.parameters()})
    return (advice or "Pass inputs that the model accepts").format(dtypes=" and ".join(dtypes) or "missing")


_ADVICE: Final = (
    (('the required "forward"',), "Pass a module that has a `forward` method"),
    (("does not require grad",), "The model computes gradients: use `torch.enable_grad()` in its `forward`"),
    (
        ("dtype", "scalar type", "expected tensor for argument", "input type"),
        "Pass inputs of a dtype that the model accepts; its parameters are {dtypes}",
    ),
    (("device",), "All parameters, buffers and constants must be on one device"),
    (
        ("shape", "size", "dimension", "channels", "must match", "argument"),
        "Pass inputs of the shapes that the model expects; several inputs as a tuple, keyword inputs as `kwargs`",
    ),
)
"""Advice by words in the message of an exception."""


def _remedy_for_tracing(args: tuple[Any, ...], kwargs: Mapping[str, Any], errors: Mapping[str, Exception]) -> str:
    """Return advice for a model that runs but cannot be captured."""
    tensors = tree_tensors((args, dict(kwargs)))
    if any(tensor.is_nested for tensor in tensors):
        return "Pass padded tensors instead of nested ones"
    if any(tensor.layout is not torch.strided for tensor in tensors):
        return "Pass dense tensors instead of sparse ones"
    if any("meta" in str(error) for error in errors.values()):
        return "Create the model on the CPU: its control flow depends on values, which are missing on the meta device"
    if set(errors) == {"export"}:
        return "Use `method='execution'` to record one execution instead, or `method='auto'` to try both"
    return f"Trace a submodule, or {_BY_HAND}"
