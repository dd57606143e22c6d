"""Batches as users give them: each checked where it is read, so that something else is named with the way out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias, cast

from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from rebasin_core.errors import InvalidInputError

Batch: TypeAlias = "tuple[Tensor, Tensor]"
WAY_OUT = "give a `DataLoader`, or a list of pairs (inputs, targets) of tensors"
"""What to give instead of something that holds no batches."""


def checked_batches(data: object, what: str = "data") -> Iterator[Batch]:
    """Yield the batches of data that hold examples, each checked.

    Args:
        data: A data loader, a list, or any iterable of batches ``(inputs, targets)``.
        what: The data's name in messages.

    Yields:
        Pairs of tensors with one row an example, at least one.

    Raises:
        InvalidInputError: If the data are something else, or something else comes from them.
    """
    for batch in _iterable(data, what):
        if not isinstance(batch, list | tuple) or len(batch) != 2 or not all(isinstance(t, Tensor) for t in batch):
            message = f"expected batches (inputs, targets) of two tensors as {what}, got {_described(batch)}; {WAY_OUT}"
            raise InvalidInputError(message)
        inputs, targets = batch
        if not (inputs.ndim and targets.ndim) or len(inputs) != len(targets):
            message = (
                f"expected batches (inputs, targets) with one row an example as {what}, got shapes "
                f"{tuple(inputs.shape)} and {tuple(targets.shape)}; {WAY_OUT}"
            )
            raise InvalidInputError(message)
        if len(targets):
            yield inputs, targets


def can_be_iterated(data: object) -> bool:
    """Return whether a value can be iterated over, if only by positions.

    Args:
        data: Any value.

    Returns:
        Whether ``iter`` takes it.
    """
    return isinstance(data, Iterable) or hasattr(data, "__getitem__")


def _iterable(data: object, what: str) -> Iterable[Any]:
    # A data set yields single examples, whose parts may look like batches.
    is_set = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    if is_set or not can_be_iterated(data) or isinstance(data, Tensor | Mapping | str | bytes):
        name = f"`{type(data).__name__}`"
        found = f"the data set {name} of single examples" if is_set else name
        message = f"expected batches (inputs, targets) as {what}, got {found}; {WAY_OUT}"
        raise InvalidInputError(message)
    return cast("Iterable[Any]", data)  # by `__getitem__`, too


def _described(batch: object) -> str:
    if isinstance(batch, list | tuple):
        return f"{type(batch).__name__} of {[type(item).__name__ for item in batch[:4]]}"
    return type(batch).__name__
