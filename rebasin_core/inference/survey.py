"""One reading of the training data before training: how many examples and batches, and which."""

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

if TYPE_CHECKING:
    from rebasin_core.evaluation.task import Batches

# Digests are added modulo this, so that the order in which examples come does not matter.
_MODULUS = 2**128


@final
@dataclass(frozen=True, slots=True)
class DataSurvey:
    """How many examples and batches the data have, and which, from one pass over them.

    Attributes:
        num_examples: Number of examples in the data set.
        num_batches: Number of batches in a pass, without empty ones.
        batch_size: Mean number of examples in a batch.
        identity: What the data are, as plain JSON by part (``number of examples``, ``inputs``, ...), contents as
            digests. Empty if it was not asked for.
    """

    num_examples: int
    num_batches: int
    batch_size: float
    identity: dict[str, Any]

    @classmethod
    def of(
        cls, data: Batches, *, seed: int, num_examples: int | None = None, identify: bool = False, what: str = "data"
    ) -> DataSurvey:
        """Read data once.

        Where the data are a `DataLoader` that leaves out or repeats examples at random, a pass does not show the whole
        data set: its size is then that of the loader's data set.

        Args:
            data: Batches ``(inputs, targets)`` that can be read again.
            seed: Seed of torch's global generator while the data are read, so that a loader that shuffles with it gives
                the same examples each time; the global generator itself is not changed.
            num_examples: The number of examples, if the caller knows it.
            identify: Whether to take digests of the contents.
            what: The data's name in messages.

        Returns:
            The survey.

        Raises:
            InvalidInputError: If there are no examples, they are not batches ``(inputs, targets)`` of tensors, or the
                data can be read only once.
        """
        _require_rereadable(data, what)
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
            for inputs, targets in checked_batches(data, what):
                sizes.append(len(targets))
                if identify and population is None:
                    contents.add(inputs, targets)
            if identify and population is not None:
                for inputs, targets in checked_batches(population.loader, what):
                    contents.add(inputs, targets)
        if not sizes:
            message = f"expected at least one example, got an empty data set as {what}"
            raise InvalidInputError(message)
        seen = sum(sizes)
        count = num_examples or (seen if population is None else population.size)
        identity: dict[str, Any] = {}
        if identify:
            identity = {"number of examples": count, "number of batches": len(sizes), "largest batch": max(sizes)}
            identity |= contents.digests(in_order=isinstance(data, list | tuple | EpochBatches))
        return cls(count, len(sizes), seen / len(sizes), identity)


def _require_rereadable(data: object, what: str) -> None:
    if isinstance(data, Iterator):
        message = (
            f"the {what} can be read only once (a generator); expected data that can be read every epoch, like a list"
        )
        raise InvalidInputError(message)


@final
@dataclass(frozen=True, slots=True)
class _Population:
    """All examples of which a loader shows a random part in each pass."""

    size: int
    loader: DataLoader[Any]


def _population(data: Batches) -> _Population | None:
    """Return all examples if a pass over the data shows a random part of them; None if it shows all."""
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
    """Digests of inputs and targets: of the set of examples, whatever their order, and of the order."""

    def __init__(self) -> None:
        self._sums = {"inputs": 0, "targets": 0, "pairs": 0}
        self._order = hashlib.blake2b(digest_size=16)
        self._dtypes: set[str] = set()

    def add(self, inputs: Tensor, targets: Tensor) -> None:
        """Take a batch."""
        self._dtypes |= {f"inputs {inputs.dtype}", f"targets {targets.dtype}"}
        for row, target in zip(_rows(inputs), _rows(targets), strict=True):
            first = _digest(row)
            second = _digest(target)
            both = _digest(first + second)
            for name, digest in (("inputs", first), ("targets", second), ("pairs", both)):
                self._sums[name] = (self._sums[name] + int.from_bytes(digest, "big")) % _MODULUS
            self._order.update(both)

    def digests(self, *, in_order: bool) -> dict[str, Any]:
        """Return what identifies the contents."""
        found: dict[str, Any] = {"dtypes": sorted(self._dtypes)}
        found |= {name: f"digest:{total:032x}" for name, total in self._sums.items()}
        return found | ({"order of the examples": f"digest:{self._order.hexdigest()}"} if in_order else {})


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _rows(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of each example."""
    rows = tensor.detach().cpu().reshape(len(tensor), -1).contiguous()
    # As bytes, since NumPy has no bfloat16.
    for row in rows.view(torch.uint8).numpy():
        yield row.tobytes()
