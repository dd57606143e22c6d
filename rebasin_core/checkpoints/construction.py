"""Construct modules without memory for their parameters."""

from __future__ import annotations

import copy
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import UninitializedParameter
from torch.overrides import TorchFunctionMode
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping


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
    replaced: dict[int, tuple[weakref.ref[nn.Parameter], nn.Parameter]] = {}

    def replace(parameter: nn.Parameter) -> nn.Parameter | None:
        if parameter.device.type == "meta":
            return None
        known = replaced.get(id(parameter))
        if known is None or known[0]() is not parameter:
            known = weakref.ref(parameter), _on_meta(parameter)
            replaced[id(parameter)] = known
        return known[1]

    with _registering(replace):
        yield


@contextmanager
def without_initialization() -> Generator[None]:
    """Skip the initialization of the parameters of modules that are constructed inside a block.

    Parameters have address space on the CPU, but no memory, because none of their entries is written. Some modules
    compute their buffers on the device of a parameter, and so need parameters that are not on the meta device.

    Yields:
        None.
    """
    mode = _WithoutInitialization()
    with _registering(mode.register), mode:
        yield


def put_on_meta(module: nn.Module) -> None:
    """Replace the parameters of a module by parameters on the meta device; shared ones remain shared.

    Args:
        module: The module, which is changed.
    """
    given = {id(parameter): parameter for parameter in module.parameters() if parameter.device.type != "meta"}
    replaced = {key: _on_meta(parameter) for key, parameter in given.items()}
    for part in module.modules():
        for name, parameter in [*part.named_parameters(recurse=False, remove_duplicate=False)]:
            if id(parameter) in replaced and not isinstance(parameter, UninitializedParameter):
                setattr(part, name, replaced[id(parameter)])


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


@contextmanager
def _registering(replace: Callable[[nn.Parameter], nn.Parameter | None]) -> Generator[None]:
    """Call a function for the parameters that modules of this thread register, and use the parameter it returns."""
    thread = threading.get_ident()

    def hook(module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        del module, name
        is_usable = parameter is not None and not isinstance(parameter, UninitializedParameter)
        return replace(parameter) if is_usable and parameter is not None and threading.get_ident() == thread else None

    # PyTorch annotates hooks without the replacement that they may return.
    handle = register_module_parameter_registration_hook(cast("Callable[..., None]", hook))
    try:
        yield
    finally:
        handle.remove()


@final
class _WithoutInitialization(TorchFunctionMode):
    """Skips operators that write to parameters."""

    def __init__(self) -> None:
        super().__init__()
        self._memory: set[int] = set()

    def register(self, parameter: nn.Parameter) -> None:
        """Skip operators on the memory of a parameter.

        Args:
            parameter: The parameter.
        """
        self._memory.add(parameter.untyped_storage().data_ptr())

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        name: str = getattr(func, "__name__", "")
        is_written = name == "__setitem__" or (name.endswith("_") and not name.startswith("_"))
        # Functions of `torch.nn.init` are called with keywords here.
        changed = next(iter([*args[:1], *(kwargs or {}).values()]), None)
        if is_written and name != "requires_grad_" and isinstance(changed, Tensor):
            address = changed.untyped_storage().data_ptr()
            if address and address in self._memory:
                return changed
        return func(*args, **(kwargs or {}))


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
