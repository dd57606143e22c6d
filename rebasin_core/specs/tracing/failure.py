"""What is wrong with a model or its example inputs that cannot be traced, and the way out of it."""

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
    """Refuse what cannot be traced in any way, before anything is run.

    Args:
        model: What was given as a model.

    Raises:
        SpecError: If it is no module, is compiled to TorchScript, has parameters without a shape, or packed weights.
    """
    if not isinstance(model, nn.Module):
        found = f"a {type(model).__name__}"
        if isinstance(model, type) and issubclass(model, nn.Module):
            found = f"the class {model.__name__}; make an instance of it"
        message = f"expected the model as a torch.nn.Module, got {found}"
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
            f"{type(model).__name__} cannot be traced: {lazy[0]!r} has no shape yet, since its layer is lazy; run the "
            "model once on a batch, then trace it"
        )
        raise SpecError(message)


def _untraceable(module: nn.Module) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return "is compiled to TorchScript, whose operators are hidden; trace the module that it was made from"
    if "quantized" in type(module).__module__.split(".") and not list(module.parameters(recurse=False)):
        return (
            "holds its weights quantized and packed, not as parameters; trace the model as it was before it was "
            "quantized, and quantize it again after aligning"
        )
    return None


def require_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse inputs that the model's ``forward`` does not take.

    Args:
        model: The model.
        args: Its positional inputs.
        kwargs: Its named inputs.

    Raises:
        SpecError: If inputs are missing, too many, of unknown names, or not tensors where they look like a shape or an
            array.
    """
    leaves = tree_leaves((args, dict(kwargs)))
    arrays = [type(leaf) for leaf in leaves if type(leaf).__module__.partition(".")[0] in {"numpy", "pandas", "jax"}]
    if arrays:
        found = f"{arrays[0].__module__.partition('.')[0]}.{arrays[0].__name__}"
        message = f"expected tensors as example inputs, got a {found}; give `torch.as_tensor(...)`"
        raise SpecError(message)
    if args and all(isinstance(leaf, int) and not isinstance(leaf, bool) for leaf in leaves):
        message = f"expected tensors as example inputs, got numbers {args}; for a shape, give `torch.zeros({args})`"
        raise SpecError(message)
    signature = inspect.signature(model.forward)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        given = f"{len(args)} positional" + (f" and the named {', '.join(map(repr, kwargs))}" if kwargs else "")
        names = ", ".join(map(str, signature.parameters.values()))
        message = (
            f"{type(model).__name__}.forward({names}) does not take the example inputs ({given}): {error}. Give "
            "several positional inputs as a tuple, and named ones as `kwargs`"
        )
        raise SpecError(message) from None


def require_outputs(model: nn.Module, outputs: Sequence[object]) -> None:
    """Refuse a model whose outputs hold no tensors: nothing would be left to keep.

    Args:
        model: The model.
        outputs: The tensors among the outputs of its graph.

    Raises:
        SpecError: If there are none.
    """
    if not outputs:
        message = (
            f"the output of {type(model).__name__} holds no tensor, so that every permutation would keep it; give "
            "a model, or a small module around it, that returns tensors"
        )
        raise SpecError(message)


def failure(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], errors: Mapping[str, Exception]
) -> SpecError:
    """Return the error for a model that could not be captured.

    Args:
        model: The model.
        args: Its positional inputs.
        kwargs: Its named inputs.
        errors: What was raised, by the ways that were tried.

    Returns:
        An error that tells whether the model itself fails on its inputs, and the way out.
    """
    name = type(model).__name__
    own = _error_of(model, args, kwargs)
    if own is not None:
        message = f"{name} cannot be run on the example inputs, in evaluation mode: {said(own)}"
        return SpecError(f"{message}. {_mended(model, own)}")
    tried = "; ".join(f"by {way}: {said(error)}" for way, error in errors.items())
    message = f"{name} runs on the example inputs, but cannot be traced {tried}"
    return SpecError(f"{message}. {_way_out(args, kwargs, errors)}")


def said(error: Exception) -> str:
    """Return the type and the first line of an error.

    Args:
        error: Any error.

    Returns:
        At most some 200 characters.
    """
    first = str(error).strip().partition("\n")[0].rstrip(".: ")
    return f"{type(error).__name__}: {first if len(first) <= 200 else first[:200] + ' ...'}".rstrip(": ")


def _error_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Exception | None:
    """Return what the model raises when it is simply run, if anything."""
    try:
        with torch.no_grad():
            shared_copy(model).eval()(*args, **kwargs)
    except Exception as error:  # ruff: ignore[blind-except] - whatever the model's own code raises
        return error
    return None


def _mended(model: nn.Module, error: Exception) -> str:
    """Return the advice for a model that fails by itself."""
    if any(tensor.is_meta for tensor in model.parameters()):
        return "It is on the meta device, where tensors have no values: make it on the CPU"
    text = str(error).lower()
    advice = next((advice for words, advice in _ADVICE if any(word in text for word in words)), None)
    dtypes = sorted({str(tensor.dtype) for tensor in model.parameters()})
    return (advice or "Give inputs on which the model runs").format(dtypes=" and ".join(dtypes) or "no type")


_ADVICE: Final = (
    (('the required "forward"',), "Give a module that has a `forward` method"),
    (("does not require grad",), "It takes gradients inside: call `torch.enable_grad()` there"),
    (
        ("dtype", "scalar type", "expected tensor for argument", "input type"),
        "Give inputs of the type that it takes; its parameters are of {dtypes}",
    ),
    (("device",), "Its parameters, buffers and constants have to be on one device"),
    (
        ("shape", "size", "dimension", "channels", "must match", "argument"),
        "Give inputs of the kinds and shapes that it takes, several of them as a tuple and named ones as `kwargs`",
    ),
)
"""The way out by words in what a model raises."""


def _way_out(args: tuple[Any, ...], kwargs: Mapping[str, Any], errors: Mapping[str, Exception]) -> str:
    """Return the advice for a model that runs, but is not captured."""
    tensors = tree_tensors((args, dict(kwargs)))
    if any(tensor.is_nested for tensor in tensors):
        return "Give ordinary, padded tensors instead of nested ones"
    if any(tensor.layout is not torch.strided for tensor in tensors):
        return "Give dense tensors instead of sparse ones"
    if any("meta" in str(error) for error in errors.values()):
        return "Make the model on the CPU: on the meta device tensors have no values, and its steps depend on them"
    if set(errors) == {"export"}:
        return "`method='execution'` records one execution instead, and `method='auto'` takes the way that works"
    return f"Trace the part of it that can be traced, or {_BY_HAND}"
