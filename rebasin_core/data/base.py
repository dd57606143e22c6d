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
    """Prediction target of a dataset.

    Attributes:
        kind: ``"classification"`` or ``"regression"``.
        output_size: Number of classes, or number of target dimensions.
    """

    kind: Literal["classification", "regression"]
    output_size: int


@final
@dataclass(frozen=True, slots=True)
class DataSplits:
    """Training and test examples of a dataset.

    Attributes:
        train: Training examples.
        test: Test examples.
        target: Prediction target.
    """

    train: Examples
    test: Examples
    target: Target

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""
        return tuple(self.train.inputs.shape[1:])


class DataSource(Strategy):
    """Dataset that can be loaded by name.

    Laws:
        - *Determinism*: every load returns the same examples in the same order.
        - *Valid examples*: inputs are floating-point, finite, and normalized with published statistics or those of the
          training examples. Class labels are in ``range(output_size)``. No split is empty.
        - *Damaged files*: missing files, damaged files and wrong sizes raise errors that name the file.
    """

    family: ClassVar[str] = "dataset"

    @final
    def load(self) -> DataSplits:
        """Load the dataset.

        Returns:
            Training and test examples in memory.

        Raises:
            MissingDataError: If files are missing and are not downloaded.
            DataError: If a file is damaged or has other content.
        """
        splits = self._load()
        for name, examples in (("training", splits.train), ("test", splits.test)):
            if not len(examples):
                message = f"expected at least one {name} example in {type(self).__name__}, got none"
                raise DataError(message)
            require_finite({"inputs": examples.inputs, "targets": examples.targets}, f"the {name} examples")
        return splits

    @abstractmethod
    def _load(self) -> DataSplits:
        """Return the dataset, with normalized inputs.

        Returns:
            Training and test examples, and the prediction target.

        Raises:
            MissingDataError: If files are missing and are not downloaded.
            DataError: If a file is damaged or has other content.
        """
