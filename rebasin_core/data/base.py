"""The interface of datasets."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, final

from rebasin_core.errors import DataError
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.checks import require_finite

if TYPE_CHECKING:
    from rebasin_core.data.examples import Examples


@final
@dataclass(frozen=True, slots=True)
class Target:
    """The quantity to predict.

    Attributes:
        kind: Classification or regression.
        output_size: Number of outputs that a network needs: of classes, or of target dimensions.
    """

    kind: Literal["classification", "regression"]
    output_size: int


@final
@dataclass(frozen=True, slots=True)
class DataSplits:
    """A dataset, split for training and testing.

    Attributes:
        train: Training examples.
        test: Test examples, never used in training.
        target: The quantity to predict.
    """

    train: Examples
    test: Examples
    target: Target

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])


class DataSource(Strategy):
    """A dataset that can be loaded by name.

    Laws:
        - *Stable*: every load gives the same examples in the same order.
        - *Clean*: inputs are floating-point, finite and normalized with statistics of the training examples or
          published ones; class labels are in the range of the task; both splits hold examples.
        - *Honest*: missing files, damaged files and wrong sizes are errors that name the file.
    """

    family: ClassVar[str] = "dataset"

    @final
    def load(self) -> DataSplits:
        """Load the dataset.

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
        """Read the dataset from its files.

        Returns:
            Training and test examples in memory.

        Raises:
            MissingDataError: If files are missing and may not be downloaded.
            DataError: If a file is damaged or does not follow its format.
        """
