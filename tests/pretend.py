"""A device that is pretended on the CPU, for tests of computations on devices that the machine does not have.

Its tensors are wrappers of tensors on the CPU. As on a GPU, an operator whose inputs are on different devices raises an
error, and the memory of the device is counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Self

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # ruff: ignore[import-private-name] - the module has no public name
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - its documented name
from typing_extensions import override

NAME = "pretended"
_COPIES = frozenset({torch.ops.aten.copy_.default})


class _Hook(torch._C._acc.PrivateUse1Hooks):
    """Hooks of a device that no other test uses: it is not the accelerator of the machine."""

    @override
    def is_available(self) -> bool:
        return False

    @override
    def has_primary_context(self, index: int) -> bool:
        return index == 0

    @override
    def is_built(self) -> bool:
        return True


class _Module:
    """The module ``torch.pretended``: no device is counted, so functions for all devices do nothing."""

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def is_available() -> bool:
        return False

    @staticmethod
    def device_count() -> int:
        return 0

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Random numbers are those of the CPU."""


@cache
def pretended_device() -> torch.device:
    """Register the device, once in a process, and return it."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=_Hook())
    return torch.device(NAME)


class _OnDevice(Tensor):
    """A tensor on the pretended device."""

    entries: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, entries: Tensor) -> _OnDevice:
        found: _OnDevice = Tensor._make_wrapper_subclass(
            cls,
            entries.shape,
            strides=entries.stride(),
            storage_offset=entries.storage_offset(),
            dtype=entries.dtype,
            device=pretended_device(),
        )
        found.entries = entries
        return found

    @classmethod
    @override
    def __torch_dispatch__(cls, func: object, types: object, args: object = (), kwargs: object = None) -> object:  # type: ignore[override]
        message = f"{func} of a tensor on {NAME} outside `PretendedDevice`"
        raise RuntimeError(message)


class PretendedDevice(TorchDispatchMode):
    """Makes the device available in a block.

    Attributes:
        peak: Largest number of bytes on the device at a time.
        copied: Number of bytes that were copied to the device.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        pretended_device()
        self._live: weakref.WeakSet[_OnDevice] = weakref.WeakSet()
        self.peak = 0
        self.copied = 0

    @override
    def __enter__(self) -> Self:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    @override
    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        if not all(issubclass(kind, _OnDevice | nn.Parameter) or kind is Tensor for kind in types):
            return NotImplemented
        options = dict(kwargs or {})
        target = options.get("device")
        is_target = target is not None and torch.device(str(target)).type == NAME
        leaves = pytree.tree_leaves((args, options))
        inputs = {id(leaf.entries): leaf for leaf in leaves if isinstance(leaf, _OnDevice)}
        outside = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, _OnDevice)]
        if inputs and any(leaf.dim() for leaf in outside) and func not in _COPIES:
            message = f"{func}: expected all tensors on one device, got {NAME} and cpu"
            raise RuntimeError(message)
        if is_target:
            options["device"] = torch.device("cpu")
        found = func(*pytree.tree_map(_entries, args), **pytree.tree_map(_entries, options))
        if torch.Tag.inplace_view in getattr(func, "tags", ()):
            with torch._C._DisableTorchDispatch():  # the wrapper changes its shape, too
                func(*args, **dict(kwargs or {}))
            return args[0]
        if func in _COPIES:
            return args[0]
        if not (is_target or (inputs and target is None)):
            # Otherwise a change of the copy would change the original.
            return pytree.tree_map(lambda leaf: leaf.clone() if inputs else leaf, found)
        self.copied += 0 if inputs else sum(leaf.nbytes for leaf in outside)
        return pytree.tree_map(lambda leaf: self._wrapped(leaf, inputs, copied=not inputs), found)

    def _wrapped(self, leaf: object, inputs: Mapping[int, _OnDevice], *, copied: bool) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if id(leaf) in inputs:
            return inputs[id(leaf)]
        found = _OnDevice.of(leaf.clone() if copied else leaf)
        self._live.add(found)
        storages = {each.entries.untyped_storage().data_ptr(): each.entries for each in self._live}
        self.peak = max(self.peak, sum(entries.untyped_storage().nbytes() for entries in storages.values()))
        return found


def _entries(leaf: object) -> object:
    return leaf.entries if isinstance(leaf, _OnDevice) else leaf
