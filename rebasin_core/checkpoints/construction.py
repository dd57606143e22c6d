"""Construct modules without memory for their parameters."""

from __future__ import annotations

import copy
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import UninitializedParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


@contextmanager
def parameters_on_meta() -> Generator[None]:
    """Put the parameters of modules that are constructed inside a block on the meta device.

    Buffers and other tensors keep their device and values, unlike under ``torch.device("meta")``: frequencies of
    rotary embeddings and tables of relative positions are in no checkpoint and have to be computed. Each parameter is
    replaced when the module registers it, before it is initialized. Until then it has address space, but no memory.
    Parameters that are shared remain shared. Only modules constructed in the current thread are affected.

    Yields:
        None.

    Examples:
        >>> with parameters_on_meta():
        ...     model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        >>> model[0].weight.device, model[1].running_var
        (device(type='meta'), tensor([1., 1., 1., 1.]))
    """
    thread = threading.get_ident()
    replaced: dict[int, tuple[weakref.ref[nn.Parameter], nn.Parameter]] = {}

    def replace(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        del module, name
        if parameter is None or parameter.device.type == "meta" or threading.get_ident() != thread:
            return None
        if isinstance(parameter, UninitializedParameter):
            return None
        known = replaced.get(id(parameter))
        if known is None or known[0]() is not parameter:
            known = weakref.ref(parameter), _on_meta(parameter)
            replaced[id(parameter)] = known
        return known[1]

    # PyTorch annotates hooks without the replacement that they may return.
    handle = register_module_parameter_registration_hook(cast("Callable[..., None]", replace))
    try:
        yield
    finally:
        handle.remove()


def with_reserved_memory(module: nn.Module) -> nn.Module:
    """Return a copy of a module whose tensors on the meta device have uninitialized memory on the CPU instead.

    The operating system provides memory when it is first written. A module that is only traced never writes to its
    parameters, so the copy needs address space but no memory. Tracing it, unlike a module on the meta device, supports
    forward passes that read values of buffers, and combine them with parameters.

    Args:
        module: Any module; it is not changed.

    Returns:
        The copy, which shares all other tensors; the module itself if it cannot be copied, or if the address space is
        limited.
    """
    given = [*module.parameters(), *module.buffers()]
    try:
        memo = {id(tensor): _reserved(tensor) for tensor in given}
        return copy.deepcopy(module, memo)
    except (RuntimeError, TypeError, ValueError, MemoryError):  # a member that cannot be copied, or too little memory
        return module


def _on_meta(parameter: nn.Parameter) -> nn.Parameter:
    found = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
    vars(found).update(vars(parameter))  # such as flags for optimizers
    return found


def _reserved(tensor: Tensor) -> Tensor:
    if tensor.device.type != "meta":
        return tensor
    found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if not isinstance(tensor, nn.Parameter):
        return found
    return nn.Parameter(found, requires_grad=tensor.requires_grad)
