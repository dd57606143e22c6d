"""MNIST and Fashion-MNIST, in the idx format of their publishers."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np
import torch
from typing_extensions import override

from rebasin_core.data.base import DataSource, DataSplits, Task
from rebasin_core.data.examples import Examples
from rebasin_core.data.files import RemoteFile, read_bytes, require_file
from rebasin_core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

# The file names are the publishers'; the order is images and labels to train on, then to test.
_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_UNSIGNED_BYTE = 8
_NUM_CLASSES = 10


@final
@dataclass(frozen=True, slots=True)
class Publication:
    """How a data set in this format was published.

    Attributes:
        url: Where its files are.
        md5: Their checksums, in the order of the names.
        folders: Where they may lie below a root; downloads go to the first.
        mean: Mean of all training pixels, scaled to [0, 1].
        deviation: Their standard deviation.
    """

    url: str
    md5: tuple[str, str, str, str]
    folders: tuple[str, ...]
    mean: float
    deviation: float


class AbstractIdxSource(DataSource):
    """Pictures of 28 x 28 pixels in ten classes, in four idx files; a subclass says how they were published.

    Args:
        root: The folder that holds the files, gzipped or not.
        download: Whether missing files may be downloaded and verified.
    """

    publication: ClassVar[Publication]

    def __init__(self, *, root: Path | str = "data", download: bool = False) -> None:
        self._root, self._download = Path(root), download

    @final
    @override
    def _load(self) -> DataSplits:
        published = self.publication
        paths = []
        for name, md5 in zip(_NAMES, published.md5, strict=True):
            remote = RemoteFile(name, f"{published.url}/{name}", md5)
            names = (name, name.removesuffix(".gz"))
            paths.append(require_file(self._root, published.folders, names, remote=remote, download=self._download))
        train, test = (_examples(paths[k], paths[k + 1], published) for k in (0, 2))
        return DataSplits(train, test, Task("classification", _NUM_CLASSES))


@final
class MNISTSource(AbstractIdxSource):
    """60,000 and 10,000 handwritten digits of 28 x 28 pixels.

    Inputs ``[N, 1, 28, 28]`` are ``(x / 255 - 0.1307) / 0.3081``, the published mean and deviation of the training set.

    Args:
        root: The folder that holds the four idx files, gzipped or not, in ``mnist/raw``, ``mnist``, ``MNIST/raw`` or
            itself.
        download: Whether missing files may be downloaded (to ``root/mnist/raw``) and verified.

    References:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), "Gradient-based learning applied to document recognition".

    Example:
        >>> MNISTSource(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        rebasin_core.errors.MissingDataError: no data file 'train-images-idx3-ubyte.gz'; looked for ...
    """

    publication: ClassVar[Publication] = Publication(
        url="https://ossci-datasets.s3.amazonaws.com/mnist",
        md5=(
            "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "d53e105ee54ea40749a09fcbcd1e9432",
            "9fb629c4189551a2d022fa330f9573f3",
            "ec29112dd5afa0611ce80d1b7f02629c",
        ),
        folders=("mnist/raw", "mnist", "MNIST/raw", "."),
        mean=0.1307,
        deviation=0.3081,
    )


@final
class FashionMNISTSource(AbstractIdxSource):
    """60,000 and 10,000 pictures of clothes of 28 x 28 pixels, in ten classes.

    Inputs ``[N, 1, 28, 28]`` are ``(x / 255 - 0.2860) / 0.3530``, the mean and deviation of the training set.

    Args:
        root: The folder that holds the four idx files, gzipped or not, in ``fashion_mnist/raw``, ``fashion_mnist``,
            ``FashionMNIST/raw``, ``fashion`` or itself.
        download: Whether missing files may be downloaded (to ``root/fashion_mnist/raw``) and verified.

    References:
        H. Xiao, K. Rasul, R. Vollgraf (2017), "Fashion-MNIST", arXiv 1708.07747.

    Example:
        >>> FashionMNISTSource(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        rebasin_core.errors.MissingDataError: no data file 'train-images-idx3-ubyte.gz'; looked for ...
    """

    publication: ClassVar[Publication] = Publication(
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        md5=(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
        folders=("fashion_mnist/raw", "fashion_mnist", "FashionMNIST/raw", "fashion", "."),
        mean=0.2860,
        deviation=0.3530,
    )


def read_idx(path: Path) -> Tensor:
    """Return the array in an idx file of unsigned bytes.

    Args:
        path: The file, gzipped if its name ends in ``.gz``.

    Returns:
        A uint8 tensor of the shape that the file states.

    Raises:
        DataError: If the file is damaged, truncated, or not such a file.
    """
    raw = read_bytes(path)
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            message = f"{path} is damaged: {error}. Fetch it again"
            raise DataError(message) from error
    dims = raw[3] if len(raw) > 3 else 0  # ruff: ignore[magic-value-comparison] - the fourth byte
    header = 4 + 4 * dims
    if len(raw) < header or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE or not dims:
        message = f"{path} is not an idx file of unsigned bytes: it begins with {raw[:4].hex(' ') or 'nothing'}"
        raise DataError(message)
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", dims, 4))
    if len(raw) - header != math.prod(shape):
        message = (
            f"{path} is truncated or too long: expected {math.prod(shape)} bytes for {shape}, got {len(raw) - header}"
        )
        raise DataError(message)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy())


def _examples(images_path: Path, labels_path: Path, published: Publication) -> Examples:
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.shape[1:] != (28, 28) or labels.dim() != 1 or len(images) != len(labels):
        message = (
            f"{images_path} holds shape {tuple(images.shape)} and {labels_path} {tuple(labels.shape)}; expected "
            "[N, 28, 28] and [N]"
        )
        raise DataError(message)
    if len(labels) and int(labels.max()) >= _NUM_CLASSES:
        message = f"{labels_path} has the class {int(labels.max())}, expected classes 0 to {_NUM_CLASSES - 1}"
        raise DataError(message)
    inputs = (images.unsqueeze(1).float() / 255 - published.mean) / published.deviation
    return Examples(inputs, labels.long())
