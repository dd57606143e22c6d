"""The digits dataset, which is included in scikit-learn."""

from __future__ import annotations

from typing import Literal, final

import torch
from typing_extensions import override

from rebasin_core.data.base import DataSource, DataSplits, Target
from rebasin_core.data.examples import Examples
from rebasin_core.errors import MissingDataError

# A fifth of the 1797 examples.
_NUM_TEST = 360
_LARGEST_PIXEL = 16.0


@final
class DigitsSource(DataSource):
    """Digits: images of 8 x 8 pixels in 10 classes, 1437 for training and 360 for testing, in a fixed random order.

    Inputs ``[N, 1, 8, 8]`` are standardized with the mean and standard deviation of all training pixels.

    References:
        E. Alpaydin, C. Kaynak (1998), "Optical recognition of handwritten digits", UCI machine learning repository;
        the copy in ``sklearn.datasets.load_digits``.

    Examples:
        >>> splits = DigitsSource().load()
        >>> tuple(splits.train.inputs.shape), splits.target.output_size
        ((1437, 1, 8, 8), 10)
    """

    name: Literal["digits"] = "digits"

    @override
    def _load(self) -> DataSplits:
        try:
            from sklearn.datasets import load_digits  # ruff: ignore[import-outside-top-level] - an extra
        except ImportError as error:
            message = "the dataset `digits` requires scikit-learn; install it with: pip install 'rebasin-core[digits]'"
            raise MissingDataError(message) from error
        digits = load_digits()
        images = torch.from_numpy(digits.images).float().unsqueeze(1) / _LARGEST_PIXEL
        labels = torch.from_numpy(digits.target).long()
        # The file is sorted by writer; after a fixed permutation, both splits have digits of all writers.
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        train = order[:-_NUM_TEST]
        test = order[-_NUM_TEST:]
        inputs = (images - images[train].mean()) / images[train].std()
        return DataSplits(
            Examples(inputs[train], labels[train]), Examples(inputs[test], labels[test]), Target("classification", 10)
        )
