"""The interface of data sets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

from rebasin_core.errors import DataError
from rebasin_core.tensors.checks import require_finite

if TYPE_CHECKING:
    from rebasin_core.data.examples import Examples


@final
@dataclass(frozen=True, slots=True)
class Task:
    """What is to be predicted.

    Attributes:
        kind: Classes, or numbers.
        output_size: Number of outputs that a network needs: classes, or target dimensions.
    """

    kind: Literal["classification", "regression"]
    output_size: int


@final
@dataclass(frozen=True, slots=True)
class DataSplits:
    """A data set, split for training and testing.

    Attributes:
        train: Training examples.
        test: Test examples, never used in training.
        task: What is to be predicted.
    """

    train: Examples
    test: Examples
    task: Task

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])


class DataSource(ABC):
    """A data set with a name.

    Laws:
        - *Stable*: every load gives the same examples in the same order.
        - *Clean*: inputs are floating, finite and normalised with statistics of the training examples or published
          ones; class numbers lie in the task's range; both splits hold examples.
        - *Honest*: missing files, damaged files and wrong sizes are errors that name the file.
    """

    @final
    def load(self) -> DataSplits:
        """Return the data set.

        Returns:
            Training and test examples in memory.

        Raises:
            MissingDataError: If files are missing and may not be downloaded.
            DataError: If a file is damaged or is not what it should be.
        """
        splits = self._load()
        for name, examples in (("training", splits.train), ("test", splits.test)):
            if not len(examples):
                message = f"{type(self).__name__} has no {name} examples"
                raise DataError(message)
            require_finite({"inputs": examples.inputs, "targets": examples.targets}, f"the {name} examples")
        return splits

    @abstractmethod
    def _load(self) -> DataSplits:
        """Return the data set; raise DataError or MissingDataError."""
