"""The output tensor of models that return dictionaries, tuples or objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeAlias, final

from torch import Tensor, nn

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.modules import shared_copy

OutputChoice: TypeAlias = str | int | Callable[[Any], Tensor]
"""How to select the output of a model: by name, by index, or by a function of all outputs."""

# Entries that hold the logits or means in models of Hugging Face transformers and of torchvision.
_USUAL = ("logits", "out")


def single_output(outputs: object) -> Tensor:
    """Return the output tensor of a model.

    Args:
        outputs: A tensor; or a mapping, sequence or object that contains one tensor, or one named ``logits`` or
            ``out``.

    Returns:
        The tensor.

    Raises:
        InvalidInputError: If the tensor cannot be identified.
    """
    if isinstance(outputs, Tensor):
        return outputs
    entries = _entries(outputs)
    tensors = {name: value for name, value in entries.items() if isinstance(value, Tensor)}
    usual = [name for name in _USUAL if name in tensors]
    if usual or len(tensors) == 1:
        return tensors[usual[0] if usual else next(iter(tensors))]
    found = f"{type(outputs).__name__}" + (f" with the tensors {list(tensors)}" if tensors else " without tensors")
    message = (
        f"expected the model to return one tensor, got {found}; name the logits or means with `output`: a name, an "
        "index, or a function of all outputs"
    )
    raise InvalidInputError(message)


def with_output(model: nn.Module, output: OutputChoice | None) -> nn.Module:
    """Return a model that returns one of its outputs.

    Args:
        model: Any module; it is not changed.
        output: Name of an entry or attribute, index, or function of all outputs; None for no selection.

    Returns:
        A copy that shares parameters and buffers with the model; the model itself if ``output`` is None.

    Raises:
        InvalidInputError: If ``output`` is of another type, or the model cannot be copied.

    Examples:
        >>> import torch
        >>> class Pair(torch.nn.Module):
        ...     def forward(self, x):
        ...         return {"features": x, "scores": 2 * x}
        >>> with_output(Pair(), "scores")(torch.ones(1)).item()
        2.0
    """
    if output is None:
        return model
    if isinstance(output, bool) or not (isinstance(output, str | int) or callable(output)):
        message = f"expected `output` as a name, an index or a function, got {output!r}"
        raise InvalidInputError(message)
    copied = shared_copy(model)
    if copied is model:
        message = f"cannot select an output of `{type(model).__name__}`, which cannot be copied; wrap it in a module"
        raise InvalidInputError(message)
    copied.register_forward_hook(_Selection(output))
    return copied


def output_of(model: nn.Module) -> OutputChoice | None:
    """Return the output that `with_output` selected of a model.

    Args:
        model: Any module.

    Returns:
        The choice; None if there is none.
    """
    hooks = model._forward_hooks.values()  # ruff: ignore[private-member-access] - no public equivalent
    return next((hook.output for hook in hooks if isinstance(hook, _Selection)), None)


@final
@dataclass(frozen=True, slots=True)
class _Selection:
    """Forward hook that selects an output."""

    output: OutputChoice

    def __call__(self, module: nn.Module, args: object, outputs: object) -> Tensor:
        """Return the selected output."""
        del module, args
        found = self._selected(outputs)
        if not isinstance(found, Tensor):
            message = f"expected `output={self.output!r}` to select a tensor, got {type(found).__name__}"
            raise InvalidInputError(message)
        return found

    def _selected(self, outputs: object) -> object:
        if not isinstance(self.output, str | int):
            return self.output(outputs)
        entries = _entries(outputs)
        if isinstance(self.output, int):
            values = list(entries.values())
            if -len(values) <= self.output < len(values):
                return values[self.output]
        elif self.output in entries:
            return entries[self.output]
        elif not isinstance(outputs, Mapping | Tensor) and isinstance(getattr(outputs, self.output, None), Tensor):
            return getattr(outputs, self.output)
        message = f"expected the model to return an output {self.output!r}, got {type(outputs).__name__}" + (
            f" with {list(entries)}" if entries else ""
        )
        raise InvalidInputError(message)


def _entries(outputs: object) -> dict[Any, object]:
    """Return the named or numbered entries of the outputs of a model."""
    if isinstance(outputs, Mapping):
        return dict(outputs)
    if isinstance(outputs, tuple) and hasattr(outputs, "_fields"):  # a named tuple
        return dict(zip(outputs._fields, outputs, strict=True))
    if isinstance(outputs, Sequence) and not isinstance(outputs, str | bytes):
        return dict(enumerate(outputs))
    if is_dataclass(outputs):
        return {entry.name: getattr(outputs, entry.name) for entry in fields(outputs)}
    return dict(getattr(outputs, "__dict__", {}))
