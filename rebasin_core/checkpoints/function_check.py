"""Compare the functions of two sets of tensors of one model, without memory for more than a few tensors."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.modules import marked_as_parameter_, named_tensors, shared_copy, unsaved_buffers
from rebasin_core.tensors.trees import tree_map, tree_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rebasin_core.specs.base import ExampleInputs

_FACTOR = 32.0
"""Ratio of the largest accepted change and the change that one unit of rounding of each parameter causes."""
_LARGEST_TOLERANCE = 0.05
_SLICE = 1 << 22
"""Number of entries that are changed at a time."""
# Errors of operators and models for dtypes and devices that they do not support.
_FAILURES = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AssertionError, AttributeError)


@final
@dataclass(frozen=True, slots=True)
class FunctionDifference:
    """Difference of the outputs of a model with two sets of tensors.

    Attributes:
        error: Relative change of the outputs: Euclidean norm of the difference divided by the norm, the largest over
            all output tensors. NaN if the outputs could not be compared.
        noise: The same if each parameter changes by one unit of rounding of ``dtype``, with random signs.
        tolerance: Largest error that rounding explains: 32 times the noise, at most 0.05.
        dtype: Dtype in which the model ran, on the values in the files.
        reason: Why the outputs could not be compared; empty if they were.
    """

    error: float
    noise: float
    tolerance: float
    dtype: torch.dtype
    reason: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether outputs were compared and their difference is explained by rounding."""
        return self.error <= self.tolerance

    @override
    def __str__(self) -> str:
        """Return one readable line."""
        if self.reason:
            return f"outputs were not compared: {self.reason}"
        verdict = "kept" if self.is_kept else "NOT kept"
        dtype = str(self.dtype).removeprefix("torch.")
        change = f"relative change of the outputs {self.error:.1e}, tolerance {self.tolerance:.0e}"
        return f"function {verdict}: {change} ({dtype})"


def function_difference(
    module: nn.Module,
    first: Mapping[str, Tensor],
    second: Callable[[str], Tensor],
    inputs: ExampleInputs,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> FunctionDifference:
    """Compare the outputs of a model with two sets of tensors, in evaluation mode.

    No memory is allocated for the parameters of the module. Each operator that uses a tensor receives it when it runs,
    and the tensor is freed afterwards. The model runs three times: with both sets, and with the first set changed by
    one unit of rounding, which determines the change that rounding explains.

    Args:
        module: The module; it is not changed. Its parameters may be on the meta device.
        first: All parameters and saved buffers by name, mapped to memory for example.
        second: Returns the tensor of the second set by name; it is called whenever an operator uses the tensor.
        inputs: Positional and keyword inputs.
        dtype: Dtype in which the model computes, on tensors converted to it one at a time. If None, float64 for tensors
            in float64, and float32 for all others: in bfloat16, rounding can hide a wrong permutation. If the model
            does not run in this dtype, it runs in float32.
        device: Device on which the operators run; tensors are copied to it one at a time.

    Returns:
        The difference.

    Raises:
        InvalidInputError: If tensors of the module are missing, or the model returns no floating-point tensor.
    """
    comparison = _Comparison(module, first, second, inputs, torch.device(device))
    chosen = dtype or _wide_dtype(first)
    found = comparison.difference(chosen)
    return comparison.difference(torch.float32) if found.reason and chosen != torch.float32 else found


@final
class _Comparison:
    """Runs of one module with several sets of tensors."""

    def __init__(
        self,
        module: nn.Module,
        first: Mapping[str, Tensor],
        second: Callable[[str], Tensor],
        inputs: ExampleInputs,
        device: torch.device,
    ) -> None:
        self._module = shared_copy(module).eval()
        own = named_tensors(module)
        unsaved = unsaved_buffers(module)
        missing = [name for name, tensor in own.items() if name not in first and tensor.device.type == "meta"]
        if missing:
            message = f"expected all tensors of {type(module).__name__}, got none for {shorten(missing)}"
            raise InvalidInputError(message)
        self._given = {name: first[name] for name in own if name in first and name not in unsaved}
        self._kept = {name: tensor.to(device) for name, tensor in own.items() if name not in self._given}
        self._second = second
        self._inputs = inputs
        self._device = device

    def difference(self, dtype: torch.dtype) -> FunctionDifference:
        """Return the difference of the outputs.

        Args:
            dtype: Dtype of the inputs and parameters.

        Returns:
            The difference.

        Raises:
            InvalidInputError: If the model returns no floating-point tensor.
        """
        first = self._given
        try:
            outputs = self._run(lambda name: first[name], dtype)
            others = self._run(self._second, dtype)
            jittered = self._run(lambda name: _jittered(first[name], dtype), dtype)
        except InvalidInputError:
            raise
        except _FAILURES as error:
            reason = f"the model raises {type(error).__name__} ({_first_line(error)})"
            return FunctionDifference(math.nan, math.nan, 0.0, dtype, reason)
        return _compared(outputs, others, jittered, dtype)

    def _run(self, produce: Callable[[str], Tensor], dtype: torch.dtype) -> list[Tensor]:
        deferred = {name: self._deferred(name, tensor, produce, dtype) for name, tensor in self._given.items()}
        args, kwargs = tree_map(lambda leaf: self._input(leaf, dtype), self._inputs)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # of models that are random in evaluation mode
            output = functional_call(self._module, {**self._kept, **deferred}, args, dict(kwargs))
            found = [tensor.detach().to("cpu") for tensor in tree_tensors(output) if tensor.is_floating_point()]
        if not found:
            message = f"expected a model with floating-point outputs, got none from {type(self._module).__name__}"
            raise InvalidInputError(message)
        return found

    def _deferred(self, name: str, tensor: Tensor, produce: Callable[[str], Tensor], dtype: torch.dtype) -> _Deferred:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        return _Deferred.like(tensor, kind, self._device, lambda: produce(name).to(self._device))

    def _input(self, leaf: object, dtype: torch.dtype) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        return _converted(leaf, dtype).to(self._device)


@final
class _Deferred(Tensor):
    """A tensor without memory; operators receive the tensor that a function returns when they run."""

    produce: Callable[[], Tensor]

    # Modules run the same code as with plain tensors, because functions of Python do not see a difference.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # ruff: ignore[private-member-access] - documented under this name

    @classmethod
    def like(cls, tensor: Tensor, dtype: torch.dtype, device: torch.device, produce: Callable[[], Tensor]) -> _Deferred:
        """Return a tensor whose entries a function returns.

        Args:
            tensor: A tensor of the same shape.
            dtype: The dtype of the entries.
            device: Their device.
            produce: Returns the entries.

        Returns:
            The tensor.
        """
        make = Tensor._make_wrapper_subclass  # ruff: ignore[private-member-access] - documented under this name
        found: _Deferred = make(cls, tensor.shape, dtype=dtype, device=device)
        found.produce = produce
        marked_as_parameter_(found)
        return found

    @classmethod
    @override
    def __torch_dispatch__(  # type: ignore[override]  # the annotation in PyTorch is that of its default
        cls,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        table = args[0] if args else None
        if func is torch.ops.aten.embedding.default and isinstance(table, _Deferred):
            # Only the rows that are looked up are converted.
            rows = func(table.produce(), *args[1:], **dict(kwargs or {}))
            return rows.to(table.dtype) if isinstance(rows, Tensor) else rows
        return func(*tree_map(_produced, args), **tree_map(_produced, dict(kwargs or {})))


def _produced(leaf: object) -> object:
    return leaf.produce().to(leaf.dtype) if isinstance(leaf, _Deferred) else leaf


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _wide_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    entries: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            entries[tensor.dtype] += tensor.numel()
    return torch.float64 if entries and entries.most_common(1)[0][0] == torch.float64 else torch.float32


def _jittered(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor in a dtype, with each entry changed by one unit of rounding, with pseudorandom signs."""
    if not tensor.is_floating_point() or not tensor.numel():
        return tensor
    found = tensor.to(dtype, copy=True).contiguous()
    generator = torch.Generator().manual_seed(0)
    rows = found.view(-1, found.shape[-1]) if found.dim() > 1 else found.view(1, -1)
    # A sign is that of its row times that of its column: no random number for each entry is needed.
    signs = [torch.randint(2, (size,), generator=generator).to(dtype) * 2 - 1 for size in rows.shape]
    step = max(1, _SLICE // rows.shape[1])
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        part.addcmul_(part, signs[0][start : start + step, None] * signs[1], value=torch.finfo(dtype).eps)
    return found


def _compared(
    first: list[Tensor], second: list[Tensor], jittered: list[Tensor], dtype: torch.dtype
) -> FunctionDifference:
    error, noise = _change(first, second), _change(first, jittered)
    if math.isnan(error) or math.isnan(noise):
        reason = "the outputs are not finite"
    elif noise == 0:
        reason = "the outputs do not depend on the parameters"
    else:
        tolerance = min(_FACTOR * max(noise, torch.finfo(dtype).eps), _LARGEST_TOLERANCE)
        return FunctionDifference(error, noise, tolerance, dtype)
    return FunctionDifference(math.nan, noise, 0.0, dtype, reason)


def _change(first: list[Tensor], second: list[Tensor]) -> float:
    """Return the largest relative change of an output; NaN if outputs are not finite, infinite if shapes differ."""
    if [tensor.shape for tensor in first] != [tensor.shape for tensor in second]:
        return math.inf
    changes = [_relative(a.double(), b.double()) for a, b in zip(first, second, strict=True) if a.numel()]
    return math.nan if any(map(math.isnan, changes)) else max(changes, default=math.nan)


def _relative(first: Tensor, second: Tensor) -> float:
    # Entries that are masked with -inf in both do not differ.
    kept = ~(first.isinf() & (first == second))
    first, second = first[kept], second[kept]
    scale = first.norm().item()
    change = (second - first).norm().item()
    if change == 0:
        return 0.0
    return math.inf if scale == 0 else change / scale


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else "no reason given"
