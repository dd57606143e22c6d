"""Tensors of a network with another vocabulary or number of classes, in the shapes of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import torch
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@final
class FittedTensors(Mapping[str, "Tensor"]):
    """Tensors in the shapes of the model, with which it can run.

    Rows that the model does not have are omitted. If the model has more rows, the rows of the network are repeated.
    The result is a network with the function of the original one on the rows that both have. Permuting other dimensions
    before or after this makes no difference.

    Args:
        tensors: Tensors by name.
        shapes: The shapes of the model, for tensors that have another shape in the network.
    """

    def __init__(self, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._tensors = tensors
        self._shapes = shapes

    @override
    def __getitem__(self, name: str) -> Tensor:
        return self.fit(name, self._tensors[name])

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    @override
    def __len__(self) -> int:
        return len(self._tensors)

    def fit(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor in the shape of the model.

        Args:
            name: Name of the tensor.
            tensor: The tensor, in the shape that it has in the network.

        Returns:
            The tensor itself if the shape is the same, a view if rows are omitted, else a copy.
        """
        for dim, size in enumerate(self._shapes.get(name, ())):
            own = tensor.shape[dim]
            if size < own:
                tensor = tensor.narrow(dim, 0, size)
            elif size > own > 0:
                tensor = tensor.index_select(dim, torch.arange(size, device=tensor.device) % own)
        return tensor
