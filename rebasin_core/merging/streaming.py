"""Merging of networks whose tensors are read one at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.merging.mean import MeanMerge
from rebasin_core.posteriors.averaging import TensorWeights
from rebasin_core.tensors.names import buffers_among

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from torch import Tensor

    from rebasin_core.merging.base import MergeMethod
    from rebasin_core.posteriors.averaging import Weights

TensorReader: TypeAlias = Callable[[str], "Tensor"]
"""Returns the tensor of one network by its name."""


@final
class StreamingMerge:
    """Merge of networks whose tensors are produced when they are needed.

    Only the tensors of one name, and the merged tensor, are in memory at a time.

    Parameters are merged by the method. Buffers, such as running statistics, are averaged with the weights; negative
    coefficients count as zero, and if no coefficient is positive, buffers are those of the base. Integers are those of
    the first network.

    Args:
        method: The merge method.
        networks: One function for each network, which returns its tensor of a name. The networks must be aligned.
        weights: Weight of each network, or a mapping from patterns of tensor names to such weights; 1 for each if None.
        base: Function that returns the base's tensor of a name, for methods with a base.
        buffers: Names of buffers; if None, integers and normalization statistics (such as ``running_mean``).
        seed: Seed of random numbers.

    Raises:
        InvalidInputError: If the networks, the base or the weights do not fit the method.

    Examples:
        >>> import torch
        >>> networks = [{"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}]
        >>> merge = StreamingMerge(MeanMerge(), [tensors.__getitem__ for tensors in networks])
        >>> merge.tensor("w")
        tensor([2.])
    """

    def __init__(
        self,
        method: MergeMethod,
        networks: Sequence[TensorReader],
        *,
        weights: Weights | None = None,
        base: TensorReader | None = None,
        buffers: Collection[str] | None = None,
        seed: int = 0,
    ) -> None:
        method.require_inputs(len(networks), has_base=base is not None)
        self._method = method
        self._networks = tuple(networks)
        self._weights = TensorWeights(weights, len(networks), relative=method.weighting != "coefficients")
        for own in self._weights.all():
            method.require_coefficients(own.tolist(), len(networks))
        self._base = base
        self._buffers = None if buffers is None else frozenset(buffers)
        self._seed = seed

    def tensor(self, name: str) -> Tensor:
        """Merge the tensors of one name.

        Args:
            name: The name.

        Returns:
            The merged tensor, with dtype and device of the first network's.

        Raises:
            InvalidInputError: If shapes or dtypes do not fit, integers with several entries are no buffer and differ
                between networks (quantized weights), or the result is not finite.
        """
        tensors = [read(name) for read in self._networks]
        weights = self._weights.of(name).tolist()
        if self._is_buffer(name, tensors[0]):
            return self._buffer(name, tensors, weights)
        if not (tensors[0].is_floating_point() or tensors[0].is_complex()):
            _require_equal(name, tensors)
        base = None if self._base is None else self._base(name)
        return self._method.merge(name, tensors, weights, base=base, seed=self._seed)

    def tensors(self, names: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
        """Merge the tensors of several names sequentially.

        Args:
            names: The names.

        Yields:
            Each name with its merged tensor.
        """
        for name in names:
            yield name, self.tensor(name)

    def _is_buffer(self, name: str, tensor: Tensor) -> bool:
        if self._buffers is not None:
            return name in self._buffers
        return tensor.is_floating_point() and name in buffers_among({name: tensor})

    def _buffer(self, name: str, tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
        positive = [max(weight, 0.0) for weight in weights]
        if not any(positive) and self._base is not None:
            return self._base(name).detach().clone()
        return MeanMerge().merge(name, tensors, positive if any(positive) else [1.0] * len(weights))


def _require_equal(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise if tensors of integers differ, unless they are single numbers such as counts of batches."""
    first = tensors[0]
    if first.numel() > 1 and not all(torch.equal(first, other.to(first.device)) for other in tensors[1:]):
        message = (
            f"`{name}`: expected floating-point weights, got {first.dtype} with different values in the networks; "
            "dequantize quantized weights, or list the name in `buffers` to use the first network's"
        )
        raise InvalidInputError(message)
