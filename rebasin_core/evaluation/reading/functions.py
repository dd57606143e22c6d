"""The functions of PyTorch as a function mode sees them: their names, and the bodies of those written in Python."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.overrides import TorchFunctionMode
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Slot: TypeAlias = "tuple[int | str, ...]"
"""Where an argument is: its position or keyword, and its index in a list of tensors."""

_MODULES = frozenset({"torch.nn.functional", "torch.functional", "torch._tensor"})
_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
# A function may call itself once with its arguments in another form (`einsum` with a list of operands).
_MOST_NESTED = 2
_IN_PLACE = frozenset({"iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imod", "setitem"})


def _never(*_: object) -> bool:
    return False


@cache
def _without_check(function: FunctionType) -> FunctionType:
    """Return a function of PyTorch that does not ask again whether a mode overrides it.

    Its own body would hand it back to the mode, which could then not see the functions inside.
    """
    scope = {**function.__globals__, **dict.fromkeys(_CHECKS, _never)}
    copy = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


@cache
def function_name(function: Any) -> tuple[str, bool]:  # ruff: ignore[any-type] - functions of many types
    """Return the name of a function without underscores, and whether it changes its first argument.

    Args:
        function: What a function mode is given: a function, a method, the getter of a property, or an operator.

    Returns:
        A name such as ``add`` for ``torch.add``, ``Tensor.__add__``, ``Tensor.add_`` and ``torch.ops.aten.add``.
    """
    name = str(getattr(function, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(function, "__self__", None), "__name__", ""))
    name = name.partition(".")[0]
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        if name in _IN_PLACE:
            return name.removeprefix("i") if name != "setitem" else name, True
        return name, False
    return (name[:-1], True) if name.endswith("_") else (name, False)


@cache
def is_pointwise(name: str) -> bool:
    """Return whether a function combines tensors entry by entry, broadcasting them.

    Args:
        name: As from `function_name`.

    Returns:
        Whether PyTorch tags an operator of this name so.
    """
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], slot: Slot) -> Any:  # ruff: ignore[any-type]
    """Return the argument in a slot.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        slot: Where it is.

    Returns:
        The argument.
    """
    first, *rest = slot
    value = kwargs[first] if isinstance(first, str) else args[first]
    return value[rest[0]] if rest else value


def with_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], values: Mapping[Slot, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return arguments with some of them replaced.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        values: The new ones by their slots.

    Returns:
        New positional and keyword arguments.
    """
    positional = list(args)
    keywords = dict(kwargs)
    for (first, *rest), value in values.items():
        holder: Any = keywords if isinstance(first, str) else positional
        if rest:
            items = list(holder[first])
            items[int(rest[0])] = value
            holder[first] = items
        else:
            holder[first] = value
    return positional, keywords


class AbstractFunctionMode(TorchFunctionMode, ABC):
    """Sees every function of PyTorch that is called while it is entered, also inside those written in Python."""

    def __init__(self) -> None:
        super().__init__()
        self._inside: list[FunctionType] = []

    @override
    def __torch_function__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        keywords = kwargs or {}
        if (
            not isinstance(func, FunctionType)
            or func.__module__ not in _MODULES
            or self._inside.count(func) >= _MOST_NESTED
            or not self._is_entered(args, keywords)
        ):
            return self._call(func, args, keywords)
        self._inside.append(func)
        try:
            with self:
                return _without_check(func)(*args, **keywords)
        finally:
            self._inside.pop()

    def _is_entered(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:  # ruff: ignore[no-self-use] - a hook
        """Return whether to look at the functions inside one that is written in Python."""
        del args, kwargs
        return True

    @abstractmethod
    def _call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # ruff: ignore[any-type]
        """Return what a function returns, or what the model shall go on with instead."""
