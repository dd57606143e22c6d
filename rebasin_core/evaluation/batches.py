"""Validation of batches that users pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from rebasin_core.errors import InvalidInputError

Batch: TypeAlias = "tuple[Tensor, Tensor]"
REMEDY = "give a `DataLoader`, or a list of pairs (inputs, targets) of tensors"
"""Remedy in the messages about data that are not batches."""


def checked_batches(data: object, name: str = "data") -> Iterator[Batch]:
    """Yield the batches of data after checking each; empty batches are skipped.

    Args:
        data: A data loader, a list, or any iterable of batches ``(inputs, targets)``.
        name: Name of the data in messages.

    Yields:
        Pairs ``(inputs, targets)`` of tensors with one row per example and at least one row.

    Raises:
        InvalidInputError: If the data cannot be iterated, or an item is not such a pair.
    """
    for batch in _iterable(data, name):
        if not isinstance(batch, list | tuple) or len(batch) != 2 or not all(isinstance(t, Tensor) for t in batch):
            message = f"expected batches (inputs, targets) of two tensors as {name}, got {_described(batch)}; {REMEDY}"
            raise InvalidInputError(message)
        inputs, targets = batch
        if not (inputs.ndim and targets.ndim) or len(inputs) != len(targets):
            message = (
                f"expected batches (inputs, targets) with one row per example as {name}, got shapes "
                f"{tuple(inputs.shape)} and {tuple(targets.shape)}; {REMEDY}"
            )
            raise InvalidInputError(message)
        if len(targets):
            yield inputs, targets


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
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__} of {[type(item).__name__ for item in batch[:4]]}"
    return type(batch).__name__
