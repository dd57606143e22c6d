"""Batches of any form, converted by a function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@final
class UnpackedBatches:
    """Batches of a loader in a form that is not understood, converted one by one to a form that is.

    Args:
        batches: The batches; they can be iterated again if these can.
        function: Function of a batch that returns ``(inputs, targets)``, or another form that `checked_batches` reads.

    Examples:
        >>> import torch
        >>> loader = [{"image": torch.zeros(2, 3), "annotation": {"class": torch.tensor([0, 1])}}]
        >>> batches = UnpackedBatches(loader, lambda batch: (batch["image"], batch["annotation"]["class"]))
        >>> [targets.tolist() for _, targets in batches]
        [[0, 1]]
    """

    def __init__(self, batches: Iterable[Any], function: Callable[[Any], Any]) -> None:
        self._batches = batches
        self._function = function

    def __iter__(self) -> Iterator[Any]:
        """Yield the converted batches."""
        for batch in self._batches:
            yield self._function(batch)
