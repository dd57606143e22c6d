"""Inputs of models: one tensor, or positional and keyword arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.trees import tree_leaves, tree_map


@final
@dataclass(frozen=True, slots=True, eq=False)
class ModelInputs:
    """Arguments of a model for a batch: several positional inputs, or keyword inputs from a mapping.

    Every tensor has one row per example, except tensors without dimensions. Other values (None, numbers, text) are
    passed to the model unchanged.

    Attributes:
        args: Positional inputs; containers of tensors are allowed.
        kwargs: Keyword inputs; containers of tensors are allowed.

    Raises:
        InvalidInputError: If there is no tensor with rows, or tensors have different numbers of rows.

    Examples:
        >>> inputs = ModelInputs((torch.zeros(3, 2), torch.ones(3, 1)))
        >>> len(inputs), len(inputs[:2])
        (3, 2)
    """

    args: tuple[object, ...] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise if the tensors do not have one row per example."""
        rows = self._rows()
        if len({len(tensor) for tensor in rows}) != 1:
            message = f"expected inputs with one row per example, got {self}"
            raise InvalidInputError(message)

    def _rows(self) -> list[Tensor]:
        return [tensor for tensor in self.tensors() if tensor.ndim]

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in the order of the arguments."""
        return [leaf for leaf in tree_leaves([self.args, dict(self.kwargs)]) if isinstance(leaf, Tensor)]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self._rows()[0])

    def __getitem__(self, rows: slice | Tensor) -> ModelInputs:
        """Return the inputs of some examples."""
        return self.mapped(lambda tensor: tensor[rows] if tensor.ndim else tensor)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> ModelInputs:
        """Return the inputs with a function applied to each tensor.

        Args:
            function: Function of a tensor that keeps one row per example.

        Returns:
            New inputs.
        """

        def apply(leaf: object) -> object:
            return function(leaf) if isinstance(leaf, Tensor) else leaf

        return ModelInputs(tree_map(apply, self.args), tree_map(apply, dict(self.kwargs)))

    @property
    def device(self) -> torch.device:
        """Device of the first tensor."""
        return self._rows()[0].device

    def bound(self, module: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a call of a module.

        Entries of a mapping are keyword arguments of ``forward`` if it has parameters of these names. If it has none of
        them, a single entry is its only positional argument, and several entries are passed as one dictionary.

        Args:
            module: The module to call.

        Returns:
            Positional and keyword arguments.

        Raises:
            InvalidInputError: If ``forward`` has parameters for some of the entries only.
        """
        names = self.kwargs.keys()
        accepted = _parameter_names(module)
        if self.args or accepted is None or names <= accepted:
            return self.args, dict(self.kwargs)
        if not names & accepted:
            return (next(iter(self.kwargs.values())) if len(names) == 1 else dict(self.kwargs),), {}
        message = (
            f"`{type(module).__name__}.forward` has no parameters for the entries {sorted(names - accepted)} of the "
            f"batch, only for {sorted(names & accepted)}; remove them in the collate function of the loader, or with "
            "`rebasin_core.data.UnpackedBatches`"
        )
        raise InvalidInputError(message)

    @override
    def __str__(self) -> str:
        """Return the shapes and dtypes of all tensors."""
        named = {**{f"input {index}": value for index, value in enumerate(self.args)}, **self.kwargs}
        return ", ".join(f"{name} {_described(value)}" for name, value in named.items()) or "no tensors"


AnyInputs: TypeAlias = Tensor | ModelInputs
"""Inputs of a batch: one tensor, or the arguments of a model with several inputs."""


def input_tensors(inputs: AnyInputs) -> list[Tensor]:
    """Return all tensors of the inputs of a batch.

    Args:
        inputs: The inputs.

    Returns:
        The tensors, in the order of the arguments.
    """
    return [inputs] if isinstance(inputs, Tensor) else inputs.tensors()


def repeated_rows(inputs: AnyInputs, times: int) -> AnyInputs:
    """Return the inputs of a batch, repeated along the first dimension.

    Args:
        inputs: The inputs.
        times: Number of repetitions of the whole batch.

    Returns:
        Inputs with the rows of ``times`` batches.
    """

    def repeat(tensor: Tensor) -> Tensor:
        return tensor.repeat(times, *[1] * (tensor.ndim - 1)) if tensor.ndim else tensor

    return repeat(inputs) if isinstance(inputs, Tensor) else inputs.mapped(repeat)


def concatenated(parts: Sequence[AnyInputs]) -> AnyInputs:
    """Return the inputs of several batches as one batch.

    Args:
        parts: Inputs of the same form.

    Returns:
        The concatenated inputs.

    Raises:
        InvalidInputError: If forms or shapes differ, as in padded batches of different lengths.
    """
    try:
        columns = zip(*(input_tensors(part) for part in parts), strict=True)
        joined = iter([torch.cat(column) if column[0].ndim else column[0] for column in columns])
    except (RuntimeError, ValueError) as error:
        message = f"expected batches with inputs of the same shapes, got {', '.join(map(described_inputs, parts[:4]))}"
        raise InvalidInputError(message) from error
    first = parts[0]
    return next(joined) if isinstance(first, Tensor) else first.mapped(lambda _: next(joined))


def described_inputs(inputs: AnyInputs) -> str:
    """Return the shapes and dtypes of inputs, for messages.

    Args:
        inputs: The inputs.

    Returns:
        Text such as ``shape (8, 3) and torch.float32``.
    """
    return f"shape {tuple(inputs.shape)} and {inputs.dtype}" if isinstance(inputs, Tensor) else str(inputs)


def call_arguments(
    module: nn.Module, example_inputs: object, kwargs: Mapping[str, Any] | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call of a module for inputs in any of the accepted forms.

    Args:
        module: The module to call.
        example_inputs: One input; a tuple of positional inputs; or a mapping or `ModelInputs`, as in
            `ModelInputs.bound`.
        kwargs: Further keyword inputs.

    Returns:
        Positional and keyword arguments.

    Raises:
        InvalidInputError: If ``forward`` has parameters for some of the entries of a mapping only.
    """
    further = dict(kwargs or {})
    if isinstance(example_inputs, Mapping) and any(isinstance(leaf, Tensor) for leaf in example_inputs.values()):
        accepted = _parameter_names(module)
        if accepted is not None and not example_inputs.keys() & accepted:
            return (example_inputs,), further  # the model has a dictionary as its input
        example_inputs = ModelInputs((), dict(example_inputs))
    if isinstance(example_inputs, ModelInputs):
        args, named = example_inputs.bound(module)
        return args, named | further
    return (example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)), further


def _parameter_names(module: nn.Module) -> set[str] | None:
    """Return the names of the parameters of `forward`; None if it accepts any keyword."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # a function without a readable signature, such as a scripted module
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return type(value).__name__
