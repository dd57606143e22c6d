"""One pass over the training data before training: numbers of examples and batches, and digests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.predictive import EpochBatches
from rebasin_core.tensors.inputs import input_tensors

if TYPE_CHECKING:
    from rebasin_core.evaluation.batches import Batches
    from rebasin_core.tensors.inputs import AnyInputs

# The sum of digests modulo this number does not depend on the order of the examples.
_MODULUS = 2**128


@final
@dataclass(frozen=True, slots=True)
class DataSurvey:
    """Sizes and identity of a dataset, from one pass over it.

    Attributes:
        num_examples: Number of examples in the dataset.
        num_batches: Number of nonempty batches in a pass.
        batch_size: Mean number of examples in a batch.
        identity: Sizes, and digests of the contents, as plain JSON (``number of examples``, ``inputs``, ...); empty
            unless requested.
    """

    num_examples: int
    num_batches: int
    batch_size: float
    identity: dict[str, Any]

    @classmethod
    def of(
        cls, data: Batches, *, seed: int, num_examples: int | None = None, identify: bool = False, label: str = "data"
    ) -> DataSurvey:
        """Read the data once.

        A pass over a `DataLoader` that drops, repeats or randomly samples examples does not show each of them once.
        The number of examples is then that of the loader's dataset.

        Args:
            data: Batches ``(inputs, targets)`` that can be read again.
            seed: Seed of torch's global generator during the pass, for which a loader that shuffles with this generator
                returns the same examples each time. The state of the global generator is restored.
            num_examples: Number of examples; counted if None.
            identify: Whether to compute digests of the contents.
            label: Name of the data in messages.

        Returns:
            The survey.

        Raises:
            InvalidInputError: If there are no examples, they are not batches ``(inputs, targets)`` of tensors, or the
                data can be read only once.
        """
        _require_rereadable(data, label)
        if num_examples is not None and num_examples < 1:
            message = f"expected `num_examples` of at least 1, got {num_examples}"
            raise InvalidInputError(message)
        population = _population(data)
        sizes: list[int] = []
        contents = _Contents()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if isinstance(data, EpochBatches):
                data.set_epoch(0)
            for inputs, targets in checked_batches(data, label):
                sizes.append(len(targets))
                if identify and population is None:
                    contents.add(inputs, targets)
            if identify and population is not None:
                for inputs, targets in checked_batches(population.loader, label):
                    contents.add(inputs, targets)
        if not sizes:
            message = f"expected at least one example, got an empty dataset as {label}"
            raise InvalidInputError(message)
        seen = sum(sizes)
        count = num_examples or (seen if population is None else population.size)
        identity: dict[str, Any] = {}
        if identify:
            identity = {"number of examples": count, "number of batches": len(sizes), "largest batch": max(sizes)}
            identity |= contents.digests(in_order=isinstance(data, list | tuple | EpochBatches))
        return cls(count, len(sizes), seen / len(sizes), identity)


def _require_rereadable(data: object, label: str) -> None:
    if isinstance(data, Iterator):
        message = (
            f"expected {label} that can be read every epoch, such as a list, got an iterator that can be read only once"
        )
        raise InvalidInputError(message)


@final
@dataclass(frozen=True, slots=True)
class _Population:
    """Dataset of a loader that returns a random part of it in each pass."""

    size: int
    loader: DataLoader[Any]


def _population(data: Batches) -> _Population | None:
    """Return the dataset of a loader that returns a random part of it in each pass; None for other data."""
    if not isinstance(data, DataLoader) or not isinstance(data.batch_sampler, BatchSampler):
        return None
    batches = data.batch_sampler
    if not isinstance(batches.sampler, RandomSampler):
        return None
    size = len(batches.sampler.data_source)
    is_dropped = batches.drop_last and batches.sampler.num_samples % batches.batch_size > 0
    if not batches.sampler.replacement and batches.sampler.num_samples == size and not is_dropped:
        return None
    return _Population(size, DataLoader(data.dataset, batch_size=batches.batch_size, collate_fn=data.collate_fn))


@final
class _Contents:
    """Digests of inputs and targets: one of the set of examples, and one that depends on their order."""

    def __init__(self) -> None:
        self._sums = {"inputs": 0, "targets": 0, "pairs": 0}
        self._order = hashlib.blake2b(digest_size=16)
        self._dtypes: set[str] = set()

    def add(self, inputs: AnyInputs, targets: Tensor) -> None:
        """Add a batch."""
        own = [tensor if tensor.ndim else tensor.expand(len(inputs)) for tensor in input_tensors(inputs)]
        self._dtypes |= {*(f"inputs {tensor.dtype}" for tensor in own), f"targets {targets.dtype}"}
        rows = zip(*(_rows(tensor) for tensor in own), strict=True)
        for row, target in zip(rows, _rows(targets), strict=True):
            first = _digest(b"".join(row))
            second = _digest(target)
            both = _digest(first + second)
            for name, digest in (("inputs", first), ("targets", second), ("pairs", both)):
                self._sums[name] = (self._sums[name] + int.from_bytes(digest, "big")) % _MODULUS
            self._order.update(both)

    def digests(self, *, in_order: bool) -> dict[str, Any]:
        """Return the digests as plain JSON, with that of the order if ``in_order``."""
        digests: dict[str, Any] = {"dtypes": sorted(self._dtypes)}
        digests |= {name: f"digest:{total:032x}" for name, total in self._sums.items()}
        return digests | ({"order of the examples": f"digest:{self._order.hexdigest()}"} if in_order else {})


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _rows(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of each example."""
    rows = tensor.detach().cpu().reshape(len(tensor), -1).contiguous()
    # Viewed as bytes because NumPy has no bfloat16.
    for row in rows.view(torch.uint8).numpy():
        yield row.tobytes()
