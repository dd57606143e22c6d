"""Reading of the batches that users pass, in all of their forms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.inputs import AnyInputs, ModelInputs, described_inputs

Batch: TypeAlias = tuple[AnyInputs, Tensor]
"""A batch that was read: inputs and targets."""

Batches: TypeAlias = Iterable[Any]
"""Batches in any form that `checked_batches` reads: a data loader, a list, or any iterable."""

TARGET_NAMES = ("labels", "label", "targets", "target", "y")
"""Names of the targets in batches that are mappings; the first that is present is used."""

REMEDY = (
    "give a `DataLoader`, or a list of batches: (inputs, targets), (input, input, ..., targets), or a mapping with "
    f"the targets under one of {', '.join(f'`{name}`' for name in TARGET_NAMES)}"
)
"""Remedy in the messages about data that are not batches."""


def checked_batches(data: object, name: str = "data") -> Iterator[Batch]:
    """Yield the batches of data after checking each; empty batches are skipped.

    A batch is a pair ``(inputs, targets)``, whose inputs are a tensor, a tuple of positional inputs or a mapping of
    keyword inputs; a tuple ``(input, input, ..., targets)``; or a mapping, such as a `BatchEncoding` of Hugging Face
    transformers, with the targets among its entries (`TARGET_NAMES`). NumPy arrays are converted to tensors.

    Args:
        data: A data loader, a list, or any iterable of batches.
        name: Name of the data in messages.

    Yields:
        Pairs ``(inputs, targets)`` with one row per example and at least one row.

    Raises:
        InvalidInputError: If the data cannot be iterated, or an item is not a batch.
    """
    for batch in _iterable(data, name):
        inputs, targets = as_batch(batch, name)
        if len(targets):
            yield inputs, targets


def as_batch(batch: object, name: str = "data") -> Batch:
    """Return the inputs and the targets of a batch.

    Args:
        batch: The batch, in any form that `checked_batches` reads.
        name: Name of the data in messages.

    Returns:
        Inputs and targets.

    Raises:
        InvalidInputError: If it is not a batch.

    Examples:
        >>> import torch
        >>> encoding = {"input_ids": torch.ones(2, 5), "labels": torch.zeros(2)}
        >>> inputs, targets = as_batch(encoding)
        >>> list(inputs.kwargs), tuple(targets.shape)
        (['input_ids'], (2,))
    """
    parts = _parts(batch)
    if parts is None:
        message = f"expected batches (inputs, targets) as {name}, got {_described(batch)}; {REMEDY}"
        raise InvalidInputError(message)
    inputs, targets = parts
    if not (targets.ndim and _has_rows(inputs)) or len(inputs) != len(targets):
        message = (
            f"expected batches (inputs, targets) with one row per example as {name}, got inputs of "
            f"{described_inputs(inputs)}, and targets of shape {tuple(targets.shape)}; {REMEDY}"
        )
        raise InvalidInputError(message)
    return inputs, targets


def _parts(batch: object) -> Batch | None:
    """Return inputs and targets; None if a batch has no known form."""
    if isinstance(batch, Mapping):
        key = next((name for name in TARGET_NAMES if name in batch), None)
        if key is None:
            return None
        inputs = _as_inputs({name: value for name, value in batch.items() if name != key})
        targets = _converted(batch[key])
    elif isinstance(batch, list | tuple) and len(batch) >= 2:
        inputs = _as_inputs(batch[0] if len(batch) == 2 else tuple(batch[:-1]))
        targets = _converted(batch[-1])
    else:
        return None
    return None if inputs is None or not isinstance(targets, Tensor) else (inputs, targets)


def _as_inputs(value: object) -> AnyInputs | None:
    """Return inputs in one of two forms; None if they contain no tensor."""
    if isinstance(value, ModelInputs):
        return value
    value = _converted(value)
    if isinstance(value, Tensor):
        return value
    args, kwargs = ((), dict(value)) if isinstance(value, Mapping) else (value, {})
    if not isinstance(args, tuple | list):
        return None
    has_tensor = any(isinstance(leaf, Tensor) and leaf.ndim for leaf in _leaves([args, kwargs]))
    return ModelInputs(tuple(args), kwargs) if has_tensor else None


def as_inputs(value: object) -> AnyInputs:
    """Return the inputs of a batch.

    Args:
        value: A tensor or array, a tuple of positional inputs, or a mapping of keyword inputs.

    Returns:
        The inputs.

    Raises:
        InvalidInputError: If the value contains no tensor with one row per example.
    """
    found = _as_inputs(value)
    if found is None:
        message = f"expected inputs as a tensor, a tuple of tensors or a mapping, got {_described(value)}"
        raise InvalidInputError(message)
    return found


def _has_rows(inputs: AnyInputs) -> bool:
    return not isinstance(inputs, Tensor) or inputs.ndim > 0


def _converted(value: object) -> object:
    """Return a value with its NumPy arrays converted, and other mappings as dictionaries."""
    if isinstance(value, Mapping):
        return {name: _converted(part) for name, part in value.items()}
    if type(value) is list or type(value) is tuple:
        parts = [_converted(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    else:
        yield value


def can_be_iterated(data: object) -> bool:
    """Return whether ``iter`` accepts a value, through ``__iter__`` or ``__getitem__``.

    Args:
        data: Any value.

    Returns:
        Whether it can be iterated.
    """
    return isinstance(data, Iterable) or hasattr(data, "__getitem__")


def _iterable(data: object, name: str) -> Iterable[Any]:
    # A dataset yields single examples, whose inputs and targets could be mistaken for batches.
    is_dataset = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    if is_dataset or not can_be_iterated(data) or isinstance(data, Tensor | Mapping | str | bytes):
        found = f"`{type(data).__name__}`"
        found = f"the dataset {found} of single examples" if is_dataset else found
        message = f"expected batches (inputs, targets) as {name}, got {found}; {REMEDY}"
        raise InvalidInputError(message)
    return cast("Iterable[Any]", data)  # including those with `__getitem__` only


def _described(batch: object) -> str:
    if isinstance(batch, Mapping):
        return f"{type(batch).__name__} with {[str(name) for name in batch]}"
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__} of {[type(item).__name__ for item in batch[:4]]}"
    return type(batch).__name__
