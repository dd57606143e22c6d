"""Observation of PyTorch functions by a function mode, including those called inside functions written in Python."""

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
"""Location of an argument: its position or keyword, then its index if it is in a list."""

_MODULES = frozenset({"torch.nn.functional", "torch.functional", "torch._tensor"})
_CHECKS = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
# `einsum` calls itself once, with a list of operands.
_MAX_NESTED = 2
_IN_PLACE = frozenset({"iadd", "isub", "imul", "itruediv", "ifloordiv", "ipow", "imod", "setitem"})


def _never(*_: object) -> bool:
    return False


@cache
def _without_check(function: FunctionType) -> FunctionType:
    """Return a PyTorch function without its check for overrides.

    The check would dispatch to the mode again, before any function inside is called.
    """
    scope = {**function.__globals__, **dict.fromkeys(_CHECKS, _never)}
    copy = FunctionType(function.__code__, scope, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


@cache
def function_name(function: Any) -> tuple[str, bool]:  # ruff: ignore[any-type] - functions of many types
    """Return the name of a function without underscores, and whether it is an in-place operation.

    Args:
        function: A function, method, property getter or operator, as passed to a function mode.

    Returns:
        Name, such as ``add`` for ``torch.add``, ``Tensor.__add__``, ``Tensor.add_`` and ``torch.ops.aten.add``, and
        whether the function changes its first argument.
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
    """Return whether a function is pointwise, with broadcasting.

    Args:
        name: Name, as from `function_name`.

    Returns:
        Whether PyTorch tags an operator of this name as pointwise.
    """
    packet = getattr(torch.ops.aten, name, None)
    if packet is None:
        return False
    return any(torch.Tag.pointwise in getattr(packet, overload).tags for overload in packet.overloads())


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], slot: Slot) -> Any:  # ruff: ignore[any-type]
    """Return the argument at a location.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        slot: Location of the argument.

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
        values: New arguments by location.

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
    """Function mode that also observes the functions called inside PyTorch functions written in Python."""

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
            or self._inside.count(func) >= _MAX_NESTED
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
        """Return whether to observe the functions called inside a function written in Python."""
        del args, kwargs
        return True

    @abstractmethod
    def _call(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:  # ruff: ignore[any-type]
        """Call a function; return its result, or the value that replaces it in the model."""
