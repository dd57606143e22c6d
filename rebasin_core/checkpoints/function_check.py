"""Compare the functions of two sets of tensors of one model, without memory for more than a few tensors."""

from __future__ import annotations

import math
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.specs.checking.precision import FullPrecision
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.modules import marked_as_parameter_, named_tensors, shared_copy, unsaved_buffers
from rebasin_core.tensors.trees import tree_map, tree_tensors
from rebasin_core.tensors.widening import wide_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rebasin_core.specs.base import ExampleInputs

aten = torch.ops.aten

_FACTOR = 32.0
"""Ratio of the largest accepted change and the change that one unit of rounding of each parameter causes."""
_LARGEST_TOLERANCE = 0.05
_SIGNS = 1 << 16
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
        dtype: Dtype in which the model computes, on tensors converted to it one at a time. In float64, casts to lower
            precision inside the model are disabled. If None, float64 for tensors in float64, and float32 for all
            others: in bfloat16, rounding can hide a wrong permutation. If the model does not run in this dtype, it
            runs in float32.
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
            outputs = self._run(first.__getitem__, dtype)
            others = self._run(self._second, dtype)
            jittered = self._run(first.__getitem__, dtype, jitter=True)
        except InvalidInputError:
            raise
        except _FAILURES as error:
            reason = f"the model raises {type(error).__name__} ({_first_line(error)})"
            return FunctionDifference(math.nan, math.nan, 0.0, dtype, reason)
        return _compared(outputs, others, jittered, dtype)

    def _run(self, produce: Callable[[str], Tensor], dtype: torch.dtype, *, jitter: bool = False) -> list[Tensor]:
        deferred = {
            name: self._deferred(name, tensor, produce, dtype, jitter=jitter) for name, tensor in self._given.items()
        }
        args, kwargs = tree_map(lambda leaf: self._input(leaf, dtype), self._inputs)
        # Casts to single precision, as in many normalizations, would round the two networks differently.
        precision = FullPrecision() if dtype == torch.float64 else nullcontext()
        with torch.no_grad(), torch.random.fork_rng(devices=[]), precision:
            torch.manual_seed(0)  # of models that are random in evaluation mode
            output = functional_call(self._module, {**self._kept, **deferred}, args, dict(kwargs))
            found = [tensor.detach().to("cpu") for tensor in tree_tensors(output) if tensor.is_floating_point()]
        if not found:
            message = f"expected a model with floating-point outputs, got none from {type(self._module).__name__}"
            raise InvalidInputError(message)
        return found

    def _deferred(
        self, name: str, tensor: Tensor, produce: Callable[[str], Tensor], dtype: torch.dtype, *, jitter: bool
    ) -> _Deferred:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        entries = _Entries(lambda: produce(name), kind, self._device, jitter=jitter and tensor.is_floating_point())
        return _Deferred.like(tensor, entries)

    def _input(self, leaf: object, dtype: torch.dtype) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        return _converted(leaf, dtype).to(self._device)


@final
@dataclass(frozen=True, slots=True)
class _Entries:
    """The entries of a tensor, converted when they are used.

    Attributes:
        source: Returns the entries in the dtype of the file.
        dtype: Dtype to which they are converted.
        device: Device to which they are copied.
        jitter: Whether each entry is changed by one unit of rounding.
    """

    source: Callable[[], Tensor]
    dtype: torch.dtype
    device: torch.device
    jitter: bool

    def all(self) -> Tensor:
        """Return all entries."""
        whole = self.source()
        return self._changed(whole, whole.shape, slice(None))

    def rows(self, indices: Tensor) -> Tensor:
        """Return some rows of a matrix, ``[*indices, width]``."""
        whole = self.source()
        chosen = indices.flatten().to(whole.device)
        return self._changed(whole[chosen], whole.shape, chosen).view(*indices.shape, whole.shape[1])

    def blocks(self) -> Iterator[Tensor]:
        """Yield the rows of a matrix in consecutive blocks, each overwritten by the next."""
        whole = self.source()
        start = 0
        for block in wide_parts(whole, self.dtype, dim=0, device=self.device, copy=self.jitter):
            is_changed = self.jitter and block.numel() > 0
            yield _jittered(block, whole.shape, slice(start, start + len(block))) if is_changed else block
            start += len(block)

    def _changed(self, part: Tensor, shape: torch.Size, rows: slice | Tensor) -> Tensor:
        if not self.jitter or not part.numel():
            return part.to(self.device).to(self.dtype)
        return _jittered(part.to(self.device).to(self.dtype, copy=True).contiguous(), shape, rows)


@final
class _Deferred(Tensor):
    """A tensor without memory; operators receive its entries when they run, large matrices in blocks of rows."""

    entries: _Entries
    is_transposed: bool

    # Modules run the same code as with plain tensors, because functions of Python do not see a difference.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # ruff: ignore[private-member-access] - documented under this name

    @classmethod
    def like(cls, tensor: Tensor, entries: _Entries) -> _Deferred:
        """Return a tensor with given entries.

        Args:
            tensor: A tensor of the same shape.
            entries: The entries.

        Returns:
            The tensor.
        """
        found = cls._of_shape(tensor.shape, entries, is_transposed=False)
        marked_as_parameter_(found)
        return found

    @classmethod
    def _of_shape(cls, shape: torch.Size, entries: _Entries, *, is_transposed: bool) -> _Deferred:
        make = Tensor._make_wrapper_subclass  # ruff: ignore[private-member-access] - documented under this name
        found: _Deferred = make(cls, shape, dtype=entries.dtype, device=entries.device)
        found.entries, found.is_transposed = entries, is_transposed
        return found

    def materialized(self) -> Tensor:
        """Return a plain tensor with all entries."""
        found = self.entries.all()
        return found.t() if self.is_transposed else found

    @classmethod
    @override
    def __torch_dispatch__(  # type: ignore[override]  # the annotation in PyTorch is that of its default
        cls,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        first, last = (args[0], args[-1]) if args else (None, None)
        if func is aten.embedding.default and isinstance(first, _Deferred) and isinstance(args[1], Tensor):
            return first.entries.rows(args[1])  # only the rows that are looked up are converted
        if func is aten.t.default and isinstance(first, _Deferred) and first.dim() == 2 and not first.is_transposed:
            return cls._of_shape(torch.Size(reversed(first.shape)), first.entries, is_transposed=True)
        if func in {aten.mm.default, aten.addmm.default} and isinstance(last, _Deferred) and last.is_transposed:
            return _product_in_blocks(func, *map(_produced, args[:-1]), weight=last, options=dict(kwargs or {}))
        return func(*tree_map(_produced, args), **tree_map(_produced, dict(kwargs or {})))


def _product_in_blocks(
    func: Callable[..., object], *given: object, weight: _Deferred, options: Mapping[str, object]
) -> Tensor:
    """Return the output of a linear layer, computed for blocks of its rows."""
    *bias, inputs = given
    found: list[Tensor] = []
    start = 0
    for block in weight.entries.blocks():
        own = [part[..., start : start + len(block)] for part in bias if isinstance(part, Tensor)]
        product = func(*own, inputs, block.t(), **options)
        found.extend([product] if isinstance(product, Tensor) else [])
        start += len(block)
    return torch.cat(found, dim=-1)


def _produced(leaf: object) -> object:
    return leaf.materialized() if isinstance(leaf, _Deferred) else leaf


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _wide_dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    entries: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            entries[tensor.dtype] += tensor.numel()
    return torch.float64 if entries and entries.most_common(1)[0][0] == torch.float64 else torch.float32


def _jittered(part: Tensor, shape: torch.Size, chosen: slice | Tensor) -> Tensor:
    """Return a part of a tensor with each entry changed by one unit of rounding, with pseudorandom signs.

    Args:
        part: All entries, or some rows of a matrix; contiguous; modified.
        shape: Shape of the whole tensor.
        chosen: The rows.

    Returns:
        The same tensor.
    """
    generator = torch.Generator().manual_seed(0)
    rows = part.view(-1, part.shape[-1]) if part.dim() > 1 else part.view(1, -1)
    # A sign is that of its row times that of its column: no random number for each entry is needed.
    sizes = (shape[:-1].numel(), shape[-1]) if len(shape) > 1 else (1, shape.numel())
    of_rows = (torch.randint(2, sizes[:1], generator=generator)[chosen] * 2 - 1).to(part)
    of_columns = (torch.randint(2, sizes[1:], generator=generator) * 2 - 1).to(part)
    # Few signs at a time: see `wide_parts` on the memory of large intermediate results.
    step = max(1, _SIGNS // rows.shape[1])
    for first in range(0, len(rows), step):
        block = rows[first : first + step]
        signs = of_rows[first : first + step, None] * of_columns
        block.addcmul_(block, signs, value=torch.finfo(part.dtype).eps)
    return part


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
