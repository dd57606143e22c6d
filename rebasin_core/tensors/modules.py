"""Parameters and buffers of modules, by name."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from torch import nn
from torch.func import functional_call

from rebasin_core.tensors.arguments import raise_wrong_type

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from torch import Tensor


# Part of the message of `Module.get_parameter` for other tensors.
_NO_PARAMETER = "is not an nn.Parameter"
# Types of wrappers, with the attribute of the wrapped module; by name, since importing torch._dynamo takes long.
_WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network inside a compiled, parallel or averaged module.

    Args:
        module: Any module.

    Returns:
        The module inside any nesting of ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and
        ``AveragedModel``. If submodules are wrapped, a copy without the wrappers that shares all parameters and
        buffers. Any other module is returned unchanged.

    Raises:
        InvalidInputError: If the argument is not a module.
    """
    if not isinstance(module, nn.Module):
        raise_wrong_type(
            module, "a network as a torch.nn.Module", "make an instance of a class; wrap a function in a module"
        )
    inner = _inner(module)
    if all(_inner(part) is part for part in inner.modules()):
        return inner
    plain = shared_copy(inner)
    for owner in [*plain.modules()]:
        for name, child in owner.named_children():
            owner.add_module(name, _inner(child))
    return plain


def _inner(module: nn.Module) -> nn.Module:
    attribute = _wrapped_attribute(type(module).__mro__)
    return module if attribute is None else _inner(module.get_submodule(attribute))


@cache
def _wrapped_attribute(bases: tuple[type, ...]) -> str | None:
    """Return the name of the wrapped module in modules with these base classes; None if none is a wrapper."""
    names = (f"{base.__module__}.{base.__qualname__}" for base in bases)
    return next((_WRAPPERS[name] for name in names if name in _WRAPPERS), None)


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers of a model by name.

    Args:
        model: Any module; compiled, parallel and averaged modules are unwrapped.

    Returns:
        Parameters first, then buffers, in the model's order.
    """
    inner = unwrapped(model)
    return {**dict(inner.named_parameters()), **dict(inner.named_buffers())}


def repeated_names(module: nn.Module) -> dict[str, str]:
    """Return the additional names of shared tensors of a module: tied weights, and modules registered twice.

    Args:
        module: Any module.

    Returns:
        For each additional name of a tensor, its first name.
    """
    first = {id(tensor): name for name, tensor in named_tensors(module).items()}
    every = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: first[id(tensor)] for name, tensor in every if first[id(tensor)] != name}


def shared_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the additional names of shared tensors, as in the state dict of a module with tied weights.

    Args:
        tensors: Named tensors.

    Returns:
        For each additional name of a tensor, its first name.
    """
    first: dict[tuple[object, ...], str] = {}
    repeated: dict[str, str] = {}
    for name, tensor in tensors.items():
        # Two names share a tensor if it is the same object, or (in a state dict) another view of the same memory.
        memory = (tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
        key = memory if tensor.numel() and tensor.device.type != "meta" else (id(tensor),)
        known = first.setdefault(key, name)
        if known != name:
            repeated[name] = known
    return repeated


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return detached copies of tensors.

    Args:
        tensors: Named tensors.

    Returns:
        Copies that share neither memory nor gradients with the tensors.
    """
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def call_with_tensors(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None = None,
) -> object:
    """Call a module with other tensors, also if its `forward` reads parameters by `Module.get_parameter`.

    Args:
        module: Any module; it is not changed.
        tensors: Parameters and buffers by name.
        args: Positional inputs.
        kwargs: Keyword inputs.

    Returns:
        The output of the module.

    Raises:
        AttributeError: If the module reads an attribute that it does not have.
    """
    named = dict(kwargs or {})
    try:
        return functional_call(module, dict(tensors), args, named)
    except AttributeError as error:
        if _NO_PARAMETER not in str(error):
            raise
    given = dict(tensors)
    for name, _ in module.named_parameters(remove_duplicate=False):
        if name in given:
            given[name] = marked_as_parameter_(given[name].view_as(given[name]))
    return functional_call(module, given, args, named)


def marked_as_parameter_(tensor: Tensor) -> Tensor:
    """Mark a tensor as a parameter.

    Args:
        tensor: The tensor, which is changed.

    Returns:
        The tensor, which `isinstance` and `Module.get_parameter` now accept as an `nn.Parameter`.
    """
    # ruff: ignore[private-member-access] - read by the class of parameters for this purpose
    tensor._is_param = True
    return tensor


def unsaved_buffers(module: nn.Module) -> frozenset[str]:
    """Return the names of buffers that are not in the state dict (``persistent=False``), which are constants.

    Args:
        module: Any module.

    Returns:
        Names as in `named_tensors`.
    """
    return frozenset(
        f"{prefix}.{name}".lstrip(".")
        for prefix, owner in module.named_modules()
        for name in owner._non_persistent_buffers_set  # ruff: ignore[private-member-access] - no public equivalent
    )


def shared_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a module that shares its parameters and buffers.

    Other state that a run of the copy changes (caches, counters, training mode) does not affect the module.

    Args:
        module: Any module.

    Returns:
        The copy; the module itself if it cannot be copied.
    """
    shared = [*module.parameters(), *module.buffers()]
    try:
        return copy.deepcopy(module, {id(tensor): tensor for tensor in shared})
    except (RuntimeError, TypeError, ValueError):  # a member that cannot be copied, such as a handle or a result
        return module


@contextmanager
def forward_hooks(hooks: Iterable[tuple[nn.Module, Callable[..., Tensor | None]]]) -> Generator[None]:
    """Register forward hooks on modules for the duration of a block.

    Args:
        hooks: Pairs of a module and its hook, which is called with the module, its arguments and its output.

    Yields:
        None. The hooks are removed when the block ends, also by an exception.
    """
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
