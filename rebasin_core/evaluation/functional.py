"""A model as a function of its parameters."""

from __future__ import annotations

import copy
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, final, overload

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.reading import ModelReading, read
from rebasin_core.tensors.checks import require_same_names
from rebasin_core.tensors.inputs import ModelInputs, described_inputs, input_tensors
from rebasin_core.tensors.memory import is_out_of_memory
from rebasin_core.tensors.modules import call_with_tensors, forward_hooks, named_tensors, unwrapped
from rebasin_core.tensors.outputs import single_output
from rebasin_core.tensors.trees import tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from rebasin_core.tensors.inputs import AnyInputs


@final
class FunctionalModel:
    """A model as a function of its parameters, buffers and inputs, in evaluation mode by default.

    The module is copied; its mode, buffers and device are never changed.

    Args:
        model: Module that returns one tensor, or containers as in `single_output`.
        device: Device to run on.
        dtype: Dtype of floating-point parameters, buffers and inputs.
        training: Whether layers are in training mode (batch statistics, dropout).
        autocast: Dtype of matrix products inside the model (`torch.autocast`); ``dtype`` if None. Outputs have
            ``dtype``.

    Examples:
        >>> import torch
        >>> model = FunctionalModel(torch.nn.Linear(1, 1, bias=False))
        >>> model({"weight": torch.tensor([[2.0]])}, torch.tensor([[3.0]])).item()
        6.0
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        training: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        self._autocast = autocast
        self._device = torch.device(device)
        self._dtype = dtype
        self._model = copy.deepcopy(unwrapped(model)).to(self._device, dtype).train(training)
        for parameter in self._model.parameters():
            parameter.requires_grad = False
        self._expected = named_tensors(self._model)
        self._call: Callable[[dict[str, Tensor], AnyInputs], object] = self._called
        self._compiled: FunctionalModel | None = None
        self._readings: dict[tuple[tuple[torch.Size, torch.dtype], ...], ModelReading] = {}

    @property
    def module(self) -> nn.Module:
        """The copy of the module, for hooks."""
        return self._model

    @property
    def size(self) -> int:
        """The number of scalar parameters."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def arithmetic(self) -> AbstractContextManager[object]:
        """Return the context manager in which the model runs: it sets the dtype of matrix products."""
        return nullcontext() if self._autocast is None else torch.autocast(self._device.type, dtype=self._autocast)

    def compiled(self) -> FunctionalModel:
        """Return this model compiled by `torch.compile`: the first call for each input shape is slow.

        The compiled model shares the copy of the module, but ignores hooks that are registered later.

        Returns:
            The compiled model; the same object each time.
        """
        if self._compiled is None:
            compiled = torch.compile(self._called)

            def call(tensors: dict[str, Tensor], inputs: AnyInputs) -> object:
                with warnings.catch_warnings():
                    # Tracing reads `.grad` of tensors that are not leaves.
                    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
                    return compiled(tensors, inputs)

            self._compiled = copy.copy(self)
            self._compiled._call = call  # ruff: ignore[private-member-access] - same class
        return self._compiled

    def check(self, tensors: Mapping[str, Tensor], role: str) -> None:
        """Raise if tensors do not have the names and shapes of the model's parameters and buffers.

        Args:
            tensors: Parameters and buffers by name.
            role: Name of the network in messages, such as ``the candidate``.

        Raises:
            InvalidInputError: If names are missing or unknown, or a shape differs.
        """
        require_same_names(self._expected, tensors, f"{role}, compared with the model,")
        for name, tensor in self._expected.items():
            if tensor.shape != tensors[name].shape:
                message = (
                    f"expected `{name}` of {role} to have the model's shape {tuple(tensor.shape)}, got "
                    f"{tuple(tensors[name].shape)}"
                )
                raise InvalidInputError(message)

    def output_elements(self, inputs: AnyInputs) -> int:
        """Return the number of scalars in the inputs and the outputs of all layers, as an estimate of memory.

        Args:
            inputs: A batch; the model is run on its first example.

        Returns:
            The number for the whole batch.
        """
        counts: list[int] = [tensor.numel() for tensor in input_tensors(inputs)]

        def count(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                counts.append(output.numel() * len(inputs))

        leaves = [module for module in self._model.modules() if next(module.children(), None) is None]
        with forward_hooks((module, count) for module in leaves):
            self(self._expected, inputs[:1])
        return sum(counts)

    def reading(self, inputs: AnyInputs, tensors: Mapping[str, Tensor] | None = None) -> ModelReading:
        """Return how the model uses each weight, determined by one forward pass and cached by input shape and dtype.

        Args:
            inputs: A small batch.
            tensors: Parameters and buffers to run the model with; not changed. Those of the module if None.

        Returns:
            The reading.

        Raises:
            InvalidInputError: If the model cannot be run on the batch.
        """
        own = input_tensors(inputs)
        key = tuple((tensor.shape, tensor.dtype) for tensor in own)
        if key not in self._readings:
            used = self._expected if tensors is None else tensors
            self._readings[key] = read(lambda copies: self(copies, inputs), used, own)
        return self._readings[key]

    def reading_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelReading:
        """Return how the model uses each weight, determined by one forward pass on inputs given by shape only.

        Args:
            args: Positional inputs; tensors are replaced by zeros of the same shape, floating-point ones in the model's
                dtype.
            kwargs: Keyword inputs, treated likewise.

        Returns:
            The reading.

        Raises:
            InvalidInputError: If the model cannot be run on such inputs.
        """

        def zeros(leaf: object) -> object:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            dtype = self._dtype if leaf.is_floating_point() else leaf.dtype
            return torch.zeros(leaf.shape, dtype=dtype, device=self._device)

        given = tree_map(zeros, args)
        named = tree_map(zeros, dict(kwargs))
        leaves = [leaf for leaf in tree_leaves([given, named]) if isinstance(leaf, torch.Tensor)]
        try:
            return read(lambda copies: call_with_tensors(self._model, copies, given, named), self._expected, leaves)
        except (RuntimeError, TypeError, ValueError) as error:
            message = f"the model cannot be run on zeros of the shapes that the specification was traced with: {error}"
            raise InvalidInputError(message) from error

    @overload
    def to_device(self, batch: Tensor) -> Tensor: ...

    @overload
    def to_device(self, batch: AnyInputs) -> AnyInputs: ...

    def to_device(self, batch: AnyInputs) -> AnyInputs:
        """Return inputs or targets on the model's device; floating-point tensors are cast to its dtype.

        Args:
            batch: Inputs or targets.

        Returns:
            The inputs or targets.
        """
        if isinstance(batch, ModelInputs):
            return batch.mapped(self.to_device)
        return batch.to(self._device, self._dtype if batch.is_floating_point() else None)

    def __call__(self, tensors: Mapping[str, Tensor], inputs: AnyInputs) -> Tensor:
        """Return the model's outputs for given parameters.

        Args:
            tensors: Parameters and buffers by name.
            inputs: A batch, on the model's device.

        Returns:
            The outputs.

        Raises:
            InvalidInputError: If the model cannot be run on the batch, or does not return one tensor.
            RuntimeError: If memory is exhausted; a smaller batch may succeed.
        """
        try:
            with self.arithmetic():
                outputs = self._call(dict(tensors), inputs)
        except InvalidInputError:  # of the form of inputs or outputs
            raise
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise InvalidInputError(_misfit(inputs, error)) from error
        except (TypeError, ValueError) as error:
            raise InvalidInputError(_misfit(inputs, error)) from error
        found = single_output(outputs)
        return found if self._autocast is None else found.to(self._dtype)

    def uncompiled(self, tensors: Mapping[str, Tensor], inputs: AnyInputs) -> Tensor:
        """Return the outputs of the copy of the module, also if this model is compiled, with errors unchanged.

        Args:
            tensors: Parameters and buffers by name.
            inputs: A batch, on the model's device.

        Returns:
            The outputs.
        """
        with self.arithmetic():
            found = single_output(self._called(dict(tensors), inputs))
        return found if self._autocast is None else found.to(self._dtype)

    def _called(self, tensors: dict[str, Tensor], inputs: AnyInputs) -> object:
        args, kwargs = inputs.bound(self._model) if isinstance(inputs, ModelInputs) else ((inputs,), {})
        return call_with_tensors(self._model, tensors, args, kwargs)


def _misfit(inputs: AnyInputs, error: Exception) -> str:
    text = f"the model cannot be run on inputs of {described_inputs(inputs)}: {error}"
    if isinstance(inputs, ModelInputs):
        text += ". If the model needs other arguments, convert the batches with `rebasin_core.data.UnpackedBatches`"
    if "does not require grad" in text:
        text += ". Gradients are disabled in evaluation; if `forward` computes some, enter `torch.enable_grad()` there"
    return text
