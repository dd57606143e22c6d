"""Construct modules without memory for their parameters."""

from __future__ import annotations

import copy
import threading
import warnings
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # ruff: ignore[import-private-name] - its documented place
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import UninitializedParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator, Mapping


@contextmanager
def parameters_on_meta() -> Generator[None]:
    """Put the parameters of modules that are constructed inside a block on the meta device.

    Buffers and other tensors keep their device and values, unlike under ``torch.device("meta")``: frequencies of
    rotary embeddings and tables of relative positions are in no checkpoint and have to be computed. Each parameter
    loses its memory when the module registers it, before it is initialized. Until the end of the block it reports its
    old device, on which some modules compute their buffers. Parameters that are shared remain shared. Only modules
    constructed in the current thread are affected.

    Yields:
        None.

    Examples:
        >>> with parameters_on_meta():
        ...     model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        >>> model[0].weight.device, model[1].running_var
        (device(type='meta'), tensor([1., 1., 1., 1.]))
    """
    construction = _Construction()
    handles = [
        # PyTorch annotates hooks without the replacement that they may return.
        register_module_parameter_registration_hook(cast("Callable[..., None]", construction.replace)),
        register_module_module_registration_hook(cast("Callable[..., None]", construction.note)),
    ]
    try:
        with warnings.catch_warnings():
            # When PyTorch copies a module.
            warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor", UserWarning)
            yield
    finally:
        for handle in handles:
            handle.remove()
        construction.finish()


class _Construction:
    """The modules that are constructed in a block."""

    def __init__(self) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._thread = threading.get_ident()
        self._modules: dict[int, nn.Module] = {}
        # The fake parameter of each parameter that is still alive.
        self._fakes: dict[int, tuple[weakref.ref[nn.Parameter], nn.Parameter]] = {}

    def note(self, module: nn.Module, name: str, part: nn.Module | None) -> None:
        """Note the modules that become part of another module, among them copies.

        Args:
            module: The other module.
            name: Name of the part.
            part: The module; None if it is only announced.
        """
        del name
        if threading.get_ident() == self._thread:
            self._modules.update((id(found), found) for found in (module, part) if found is not None)

    def replace(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        """Return a parameter without memory that reports the same device.

        Args:
            module: Module that registers the parameter.
            name: Name of the parameter.
            parameter: The parameter; None if it is only announced.

        Returns:
            The new parameter; None to register the given one.
        """
        if parameter is None or threading.get_ident() != self._thread:
            return None
        self.note(module, name, None)
        if parameter.device.type == "meta" or isinstance(parameter, UninitializedParameter | FakeTensor):
            return None
        known = self._fakes.get(id(parameter))
        if known is None or known[0]() is not parameter:
            fake = self._mode.from_tensor(parameter.detach())
            known = weakref.ref(parameter), _like(parameter, fake, vars(parameter))
            self._fakes[id(parameter)] = known
        return known[1]

    def finish(self) -> None:
        """Put all parameters without memory on the meta device, and buffers that were computed from them."""
        own = frozenset(vars(self._mode.from_tensor(torch.empty(0))))
        # Both are kept, because the identity of a tensor that was freed can be that of a later one.
        found: dict[int, tuple[Tensor, Tensor]] = {}
        every = {id(part): part for module in self._modules.values() for part in module.modules()}
        for module in every.values():
            owned = [
                *module.named_parameters(recurse=False, remove_duplicate=False),
                *module.named_buffers(recurse=False, remove_duplicate=False),
            ]
            for name, tensor in owned:
                if isinstance(tensor, FakeTensor):
                    _, meta = found.setdefault(id(tensor), (tensor, _on_meta(tensor, own)))
                    # Recurrent layers keep further references, which this assignment replaces.
                    setattr(module, name, meta)


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


def _like(parameter: nn.Parameter, tensor: Tensor, flags: Mapping[str, object]) -> nn.Parameter:
    """Return a tensor as a parameter with the flags of another one, such as those for optimizers."""
    found = nn.Parameter(tensor, requires_grad=parameter.requires_grad)
    vars(found).update(flags)
    return found


def _on_meta(tensor: Tensor, own: Collection[str]) -> Tensor:
    """Return a fake tensor on the meta device, without the attributes that all fake tensors have."""
    found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    if not isinstance(tensor, nn.Parameter):
        return found
    return _like(tensor, found, {name: flag for name, flag in vars(tensor).items() if name not in own})


def _reserved(tensor: Tensor) -> Tensor:
    if tensor.device.type != "meta":
        return tensor
    found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if not isinstance(tensor, nn.Parameter):
        return found
    return nn.Parameter(found, requires_grad=tensor.requires_grad)
