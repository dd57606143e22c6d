"""A model as a function of its parameters, on a private copy."""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any, final

import torch
from torch.func import functional_call

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.reading import ModelReading, read
from rebasin_core.tensors.checks import require_same_names
from rebasin_core.tensors.memory import is_out_of_memory
from rebasin_core.tensors.modules import forward_hooks, named_tensors, unwrapped
from rebasin_core.tensors.trees import tree_leaves, tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn


@final
class FunctionalModel:
    """A model called with parameters from outside, in evaluation mode unless it is being trained.

    The caller's model is copied once and never touched: not its mode, not its buffers, not its device.

    Args:
        model: Any module that returns one tensor.
        device: Where it shall run.
        dtype: The dtype of its floating tensors and inputs.
        training: Whether layers shall behave as in training (batch statistics, dropout).

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
    ) -> None:
        self._device = torch.device(device)
        self._dtype = dtype
        self._model = copy.deepcopy(unwrapped(model)).to(self._device, dtype).train(training)
        for parameter in self._model.parameters():
            parameter.requires_grad = False
        self._expected = named_tensors(self._model)
        self._call: Callable[[dict[str, Tensor], Tensor], object] = self._called
        self._compiled: FunctionalModel | None = None
        self._readings: dict[tuple[torch.Size, torch.dtype], ModelReading] = {}

    @property
    def module(self) -> nn.Module:
        """The private copy, to put hooks on."""
        return self._model

    @property
    def size(self) -> int:
        """The number of its parameters."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def compiled(self) -> FunctionalModel:
        """Return this model as ``torch.compile`` has it: slow at the first call of a shape, faster ever after.

        It shares the private copy. Hooks that are put on that copy later are not noticed: what needs them calls the
        model itself.

        Returns:
            The model, the same one each time.
        """
        if self._compiled is None:
            compiled = torch.compile(self._called)

            def call(tensors: dict[str, Tensor], inputs: Tensor) -> object:
                with warnings.catch_warnings():
                    # While it is traced, tensors that are no leaves are asked for their gradient.
                    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
                    return compiled(tensors, inputs)

            self._compiled = copy.copy(self)
            self._compiled._call = call  # ruff: ignore[private-member-access] - of its own class
        return self._compiled

    def check(self, tensors: Mapping[str, Tensor], what: str) -> None:
        """Refuse tensors that are not this model's.

        Args:
            tensors: Parameters and buffers by name.
            what: What they are, for the message.

        Raises:
            InvalidInputError: If names are missing or left over, or a shape differs.
        """
        require_same_names(self._expected, tensors, f"{what}, compared with the model,")
        for name, tensor in self._expected.items():
            if tensor.shape != tensors[name].shape:
                message = f"{what}: `{name}` has shape {tuple(tensors[name].shape)}, the model {tuple(tensor.shape)}"
                raise InvalidInputError(message)

    def output_elements(self, inputs: Tensor) -> int:
        """Return how many numbers all layers together return for a batch, as a measure of memory.

        Args:
            inputs: A batch; one of its examples is run.

        Returns:
            The number.
        """
        found: list[int] = [inputs.numel()]

        def count(_: nn.Module, __: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                found.append(output.numel() * len(inputs))

        leaves = [module for module in self._model.modules() if next(module.children(), None) is None]
        with forward_hooks((module, count) for module in leaves):
            self(self._expected, inputs[:1])
        return sum(found)

    def reading(self, inputs: Tensor, tensors: Mapping[str, Tensor] | None = None) -> ModelReading:
        """Return what each weight is to the model, from one execution; read once for inputs of one shape.

        Args:
            inputs: A small batch.
            tensors: Parameters and buffers to run it with; not changed. The model's own if not given.

        Returns:
            The reading.

        Raises:
            InvalidInputError: If the model cannot take the batch.
        """
        key = inputs.shape, inputs.dtype
        if key not in self._readings:
            given = self._expected if tensors is None else tensors
            self._readings[key] = read(lambda copies: self(copies, inputs), given, [inputs])
        return self._readings[key]

    def reading_of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModelReading:
        """Return what each weight is to the model, from one execution on inputs of which only the shapes are known.

        Args:
            args: Positional inputs; tensors are replaced by zeros of their shapes and dtypes.
            kwargs: Named inputs; the same.

        Returns:
            The reading.

        Raises:
            InvalidInputError: If the model cannot take such inputs.
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
            return read(lambda copies: functional_call(self._model, copies, given, named), self._expected, leaves)
        except (RuntimeError, TypeError, ValueError) as error:
            message = f"the model cannot be run on zeros of the shapes that the specification was traced with: {error}"
            raise InvalidInputError(message) from error

    def to_device(self, batch: Tensor) -> Tensor:
        """Return a batch on the model's device, floating tensors in its dtype.

        Args:
            batch: Inputs or targets.

        Returns:
            The tensor, moved.
        """
        return batch.to(self._device, self._dtype if batch.is_floating_point() else None)

    def __call__(self, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        """Return the model's outputs at given parameters.

        Args:
            tensors: Parameters and buffers by name.
            inputs: A batch, on the model's device.

        Returns:
            The outputs.

        Raises:
            InvalidInputError: If the model cannot take the batch, or returns something else than one tensor.
            RuntimeError: If memory does not suffice: a smaller piece of work may succeed.
        """
        try:
            outputs = self._call(dict(tensors), inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise InvalidInputError(_misfit(inputs, error)) from error
        except (TypeError, ValueError) as error:
            raise InvalidInputError(_misfit(inputs, error)) from error
        if not isinstance(outputs, torch.Tensor):
            message = (
                f"expected the model to return one tensor, got {type(outputs).__name__}; wrap it in a module that "
                "returns the outputs to be scored"
            )
            raise InvalidInputError(message)
        return outputs

    def _called(self, tensors: dict[str, Tensor], inputs: Tensor) -> object:
        return functional_call(self._model, tensors, (inputs,))


def _misfit(inputs: Tensor, error: Exception) -> str:
    text = f"the model cannot be run on inputs of shape {tuple(inputs.shape)} and {inputs.dtype}: {error}"
    if "does not require grad" in text:
        text += ". It takes gradients inside, and gradients are off in evaluation: call `torch.enable_grad()` there"
    return text
