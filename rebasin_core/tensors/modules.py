"""The tensors of a module, by name."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from rebasin_core.tensors.kinds import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from torch import Tensor


# Types of modules that stand for a module that they hold, and where: by name, since importing the compiler takes long.
_WRAPPERS = {
    "torch.nn.parallel.data_parallel.DataParallel": "module",
    "torch.nn.parallel.distributed.DistributedDataParallel": "module",
    "torch.optim.swa_utils.AveragedModel": "module",
    "torch._dynamo.eval_frame.OptimizedModule": "_orig_mod",
}


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the network that a compiled, parallel or averaged module stands for.

    Args:
        module: Any module.

    Returns:
        The module inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and ``AveragedModel``, in
        whatever order they are wrapped around each other. Where parts of a module are wrapped, a copy without the
        wrappers that shares all parameters and buffers. Any other module itself.

    Raises:
        InvalidInputError: If it is no module.
    """
    if not isinstance(module, nn.Module):
        refuse(module, "a network as a torch.nn.Module", "make an instance of a class; wrap a function in a module")
    inner = _inner(module)
    if all(_inner(part) is part for part in inner.modules()):
        return inner
    plain = shared_copy(inner)
    for owner in [*plain.modules()]:
        for name, child in owner.named_children():
            owner.add_module(name, _inner(child))
    return plain


def _inner(module: nn.Module) -> nn.Module:
    for base in type(module).__mro__:
        attribute = _WRAPPERS.get(f"{base.__module__}.{base.__qualname__}")
        if attribute is not None:
            return _inner(module.get_submodule(attribute))
    return module


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers of a model by name.

    Args:
        model: Any module; a compiled, parallel or averaged one stands for the module that it wraps.

    Returns:
        Parameters first, then buffers, in the model's order.
    """
    inner = unwrapped(model)
    return {**dict(inner.named_parameters()), **dict(inner.named_buffers())}


def repeated_names(module: nn.Module) -> dict[str, str]:
    """Return the names that repeat a tensor of a module: tied weights, and modules that are registered twice.

    Args:
        module: Any module.

    Returns:
        For each further name of a tensor, its first name.
    """
    first = {id(tensor): name for name, tensor in named_tensors(module).items()}
    every = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    return {name: first[id(tensor)] for name, tensor in every if first[id(tensor)] != name}


def shared_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return the names that repeat a tensor, as in the state dict of a module that is registered under two names.

    Args:
        tensors: Named tensors.

    Returns:
        For each name after the first of a tensor, that first name.
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
    """Return copies of tensors that share neither memory nor gradients with them.

    Args:
        tensors: Named tensors.

    Returns:
        Their copies.
    """
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def unsaved_buffers(module: nn.Module) -> frozenset[str]:
    """Return the names of buffers that are not part of the state dict: constants that no training changes.

    Args:
        module: Any module.

    Returns:
        Names as in `named_tensors`.
    """
    return frozenset(
        f"{prefix}.{name}".lstrip(".")
        for prefix, owner in module.named_modules()
        for name in owner._non_persistent_buffers_set  # ruff: ignore[private-member-access] - nothing public tells
    )


def shared_copy(module: nn.Module) -> nn.Module:
    """Return a copy of a module that shares its parameters and buffers.

    What the copy keeps from a run (caches, counters, its mode) does not reach the module.

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
    """Keep forward hooks on modules while a block runs, whatever happens in it.

    Args:
        hooks: Pairs of a module and its hook, called with the module, its arguments and its output.

    Yields:
        Nothing; the hooks are on.
    """
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
