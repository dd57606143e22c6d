"""UCI regression datasets with the standard splits."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

import numpy as np
import torch
from pydantic import NonNegativeInt
from typing_extensions import override

from rebasin_core.data.base import DataSource, DataSplits, Target
from rebasin_core.data.examples import Examples
from rebasin_core.data.files import find_file
from rebasin_core.errors import DataError, MissingDataError
from rebasin_core.tensors.archives import read_npz
from rebasin_core.tensors.bounds import MAX_LENGTH
from rebasin_core.tensors.reading import regular_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Columns = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]


@final
class UCISource(DataSource):
    """UCI regression dataset with one of the standard random splits.

    The dataset is either a file ``<dataset>.npz`` with arrays ``x`` ``[n, d]``, ``y`` ``[n]`` and ``test_index``
    ``[splits, m]``, or the text files of the published splits: ``<dataset>/data/data.txt`` with
    ``index_features.txt``, ``index_target.txt`` and ``index_test_<split>.txt`` in the same folder. Inputs ``[N, d]``
    and targets ``[N, 1]`` are standardized with the statistics of the training examples. The standard deviation of the
    targets is the `scale` of the `Target`, with which scores are converted to their original units.

    Raises:
        ConfigError: If an option is invalid.

    References:
        J. M. Hernandez-Lobato, R. Adams (2015), "Probabilistic backpropagation", ICML, arXiv 1502.05336 (the splits);
        Y. Gal, Z. Ghahramani (2016), "Dropout as a Bayesian approximation", ICML, arXiv 1506.02142 (their files).

    Examples:
        >>> UCISource(dataset="yacht", root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        rebasin_core.errors.MissingDataError: no UCI dataset 'yacht' ...
    """

    name: Literal["uci"] = "uci"

    dataset: str
    """Name of the dataset and of its file or folder, such as ``concrete``."""

    root: Path = Path("data")
    """Folder that contains the dataset, directly or in the subfolder ``uci`` or ``UCI_Datasets``."""

    split: NonNegativeInt = 0
    """Index of the standard split, from 0."""

    @override
    def _load(self) -> DataSplits:
        folders = ("uci", "UCI_Datasets", ".")
        archive = find_file(self.root, folders, (f"{self.dataset}.npz",))
        text = find_file(self.root, folders, (f"{self.dataset}/data/data.txt",))
        if archive is None and text is None:
            message = (
                f"no UCI dataset {self.dataset!r} below {self.root}; expected {self.dataset}.npz or "
                f"{self.dataset}/data/data.txt in this folder, `uci` or `UCI_Datasets`. Please set `root`"
            )
            raise MissingDataError(message)
        path = archive or text or self.root
        try:
            x, y, test = _read_npz(path, self.split) if archive else _read_text(path.parent, self.split)
            _require_columns(x, y, test)
        except (OSError, ValueError, TypeError, IndexError) as error:
            message = f"cannot read {path} (split {self.split}): {error}"
            raise DataError(message) from error
        with np.errstate(all="ignore"):  # overflow is detected by the check for finite values in `load`
            return _split(x, y, test)


def _read_npz(path: Path, split: int) -> Columns:
    arrays = read_npz(path, names=("x", "y", "test_index"))
    other = [name for name, array in arrays.items() if array.dtype.kind not in "iuf"]
    if other:
        message = f"expected arrays of real numbers, got other dtypes for {other}"
        raise DataError(message)
    return arrays["x"].astype(np.float64), arrays["y"].astype(np.float64), arrays["test_index"][split]


def _read_text(folder: Path, split: int) -> Columns:
    table = _read_table(folder / "data.txt", 2)
    features = _as_indices(_read_table(folder / "index_features.txt", 1))
    target = _as_indices(_read_table(folder / "index_target.txt", 1))
    test = _as_indices(_read_table(folder / f"index_test_{split}.txt", 1))
    return table[:, features], table[:, target[0]], test


def _read_table(path: Path, dimensions: Literal[1, 2]) -> NDArray[np.float64]:
    regular_size(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # for empty files, whose shape is checked later
        return np.loadtxt(path, ndmin=dimensions)


def _as_indices(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    rounded = numbers.round()
    if not np.array_equal(rounded, numbers) or np.abs(rounded).max(initial=0) > MAX_LENGTH:
        message = "expected integers as indices in the index files, got other numbers"
        raise DataError(message)
    return rounded.astype(np.int64)


def _require_columns(x: NDArray[np.float64], y: NDArray[np.float64], test: NDArray[np.int64]) -> None:
    shapes = x.ndim == 2 and y.shape == (len(x),) and test.ndim == 1
    if not shapes or test.dtype.kind not in "iu" or not 0 < len(np.unique(test)) < len(x):
        message = (
            f"expected x [n, d], y [n] and fewer than n integers as indices of test examples, got shapes "
            f"{x.shape}, {y.shape} and {test.shape} of {test.dtype}"
        )
        raise DataError(message)
    if not 0 <= test.min() <= test.max() < len(x):
        message = f"expected indices of test examples from 0 to {len(x) - 1}, got {test.min()} to {test.max()}"
        raise DataError(message)


def _split(x: NDArray[np.float64], y: NDArray[np.float64], test: NDArray[np.int64]) -> DataSplits:
    is_test = np.zeros(len(x), dtype=bool)
    is_test[test] = True
    train_x = x[~is_test]
    train_y = y[~is_test]
    # Constant columns have standard deviation zero; dividing by 1 leaves them at zero.
    scale = np.where(train_x.std(0) > 0, train_x.std(0), 1.0)
    unit = float(train_y.std()) or 1.0
    inputs = torch.from_numpy((x - train_x.mean(0)) / scale).float()
    targets = torch.from_numpy((y - train_y.mean()) / unit).float().unsqueeze(1)
    mask = torch.from_numpy(is_test)
    return DataSplits(
        Examples(inputs[~mask], targets[~mask]),
        Examples(inputs[mask], targets[mask]),
        Target("regression", 1, (unit,)),
    )
