"""The interface of datasets."""

from __future__ import annotations

import math
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
        scale: Numbers by which the dimensions of the targets were divided, such as their standard deviations; empty if
            the targets are in their original units.

    Raises:
        DataError: If the scale does not have one positive number for each dimension of a regression target.
    """

    kind: Literal["classification", "regression"]
    output_size: int
    scale: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Raise if the scale does not fit the targets."""
        fits = self.kind == "regression" and len(self.scale) == self.output_size
        if self.scale and not (fits and all(0 < number < math.inf for number in self.scale)):
            expected = f"{self.output_size} positive numbers" if self.kind == "regression" else "none for class labels"
            message = f"expected `scale` to have {expected}, got {self.scale!r}"
            raise DataError(message)


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
