"""MNIST and Fashion-MNIST in their published idx format."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, final

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt, field_validator
from typing_extensions import override

from rebasin_core.data.base import DataSource, DataSplits, Target
from rebasin_core.data.examples import Examples
from rebasin_core.data.files import RemoteFile, read_bytes, require_file
from rebasin_core.data.images import normalized, require_divisible
from rebasin_core.errors import DataError
from rebasin_core.tensors.bounds import MAX_DATA_BYTES
from rebasin_core.tensors.memory import free_memory

if TYPE_CHECKING:
    from torch import Tensor

# Published file names: images and labels for training, then for testing.
_NAMES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_UNSIGNED_BYTE = 8
_MOST_DIMENSIONS = 8
_SIZE = 28
_NUM_CLASSES = 10


@final
@dataclass(frozen=True, slots=True)
class Publication:
    """Address, checksums and pixel statistics of a published dataset in idx format.

    Attributes:
        url: Address of the folder of its files.
        md5: MD5 checksums of the files: training images and labels, test images and labels.
        folders: Subfolders of the root in which to look for the files; downloads are saved in the first.
        mean: Mean of all training pixels, for pixels in [0, 1].
        deviation: Standard deviation of all training pixels, for pixels in [0, 1].
    """

    url: str
    md5: tuple[str, str, str, str]
    folders: tuple[str, ...]
    mean: float
    deviation: float


class AbstractIdxSource(DataSource):
    """Dataset of images of 28 x 28 pixels in 10 classes, in four idx files.

    A subclass defines the class attribute ``publication``, a `Publication`.

    Raises:
        ConfigError: If an option is invalid.
    """

    publication: ClassVar[Publication]

    root: Path = Path("data")
    """Folder that contains the four idx files, gzipped or not, directly or in a subfolder named after the dataset."""

    download: bool = False
    """Whether to download missing files into the subfolder of the dataset, and verify them."""

    mean: float | None = None
    """Mean to subtract, for pixels in [0, 1]; that of the training images if None. Inputs are
    ``(x / 255 - mean) / deviation``."""

    deviation: PositiveFloat | None = None
    """Standard deviation by which to divide, for pixels in [0, 1]; that of the training images if None."""

    pool: PositiveInt = 1
    """Side of the squares of pixels that are averaged: 2 for images of 14 x 14. A divisor of 28."""

    @field_validator("pool")
    @classmethod
    def _divides(cls, pool: int) -> int:
        return require_divisible(pool, _SIZE)

    @final
    @override
    def _load(self) -> DataSplits:
        published = self.publication
        paths = []
        for name, md5 in zip(_NAMES, published.md5, strict=True):
            remote = RemoteFile(name, f"{published.url}/{name}", md5)
            names = (name, name.removesuffix(".gz"))
            paths.append(require_file(self.root, published.folders, names, remote=remote, download=self.download))
        mean = published.mean if self.mean is None else self.mean
        deviation = published.deviation if self.deviation is None else self.deviation
        train = _examples(paths[0], paths[1], mean, deviation, self.pool)
        test = _examples(paths[2], paths[3], mean, deviation, self.pool)
        return DataSplits(train, test, Target("classification", _NUM_CLASSES))


@final
class MNISTSource(AbstractIdxSource):
    """MNIST: handwritten digits of 28 x 28 pixels in 10 classes, 60,000 for training and 10,000 for testing.

    Inputs ``[N, 1, 28, 28]`` are by default ``(x / 255 - 0.1307) / 0.3081``, with the mean and standard deviation of
    all training pixels. The files may be in the subfolders ``mnist/raw``, ``mnist`` and ``MNIST/raw`` of the root, or
    in the root; downloads are saved in the first.

    Raises:
        ConfigError: If an option is invalid.

    References:
        Y. LeCun, L. Bottou, Y. Bengio, P. Haffner (1998), "Gradient-based learning applied to document recognition".

    Examples:
        >>> MNISTSource(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        rebasin_core.errors.MissingDataError: no data file 'train-images-idx3-ubyte.gz'; looked for ...
    """

    name: Literal["mnist"] = "mnist"

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
    """Fashion-MNIST: images of clothes, 28 x 28 pixels in 10 classes, 60,000 for training and 10,000 for testing.

    Inputs ``[N, 1, 28, 28]`` are by default ``(x / 255 - 0.2860) / 0.3530``, with the mean and standard deviation of
    all training pixels. The files may be in the subfolders ``fashion_mnist/raw``, ``fashion_mnist``,
    ``FashionMNIST/raw`` and ``fashion`` of the root, or in the root; downloads are saved in the first.

    Raises:
        ConfigError: If an option is invalid.

    References:
        H. Xiao, K. Rasul, R. Vollgraf (2017), "Fashion-MNIST", arXiv 1708.07747.

    Examples:
        >>> FashionMNISTSource(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        rebasin_core.errors.MissingDataError: no data file 'train-images-idx3-ubyte.gz'; looked for ...
    """

    name: Literal["fashion_mnist"] = "fashion_mnist"

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
    """Read an idx file of unsigned bytes.

    Args:
        path: The file; gzipped if its name ends in ``.gz``.

    Returns:
        A uint8 tensor of the shape in the header of the file.

    Raises:
        DataError: If the file is damaged, truncated, or has another format.
    """
    raw = read_bytes(path)
    if path.suffix == ".gz":
        raw = _decompressed(raw, path)
    # Header: two zero bytes, the element type, the number of dimensions, and the sizes as big-endian integers.
    dims = raw[3] if len(raw) > 3 else 0
    header = 4 + 4 * dims
    if len(raw) < header or raw[:2] != b"\0\0" or raw[2] != _UNSIGNED_BYTE or not 1 <= dims <= _MOST_DIMENSIONS:
        start = f"a file that starts with {raw[:4].hex(' ')}" if raw else "an empty file"
        message = f"expected an idx file of unsigned bytes at {path}, got {start}"
        raise DataError(message)
    shape = tuple(int(n) for n in np.frombuffer(raw, ">u4", dims, 4))
    if len(raw) - header != math.prod(shape):
        message = f"{path} is damaged: expected {math.prod(shape)} bytes for shape {shape}, got {len(raw) - header}"
        raise DataError(message)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy())


def _decompressed(raw: bytes, path: Path) -> bytes:
    """Return the content of a gzip file; raise if it does not fit into memory."""
    limit = min(MAX_DATA_BYTES, free_memory(torch.device("cpu")) // 2)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as stream:
            content = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as error:
        message = f"{path} is damaged: {error}. Download it again"
        raise DataError(message) from error
    if len(content) > limit:
        message = f"expected at most {limit} bytes (half of the free memory) in {path}, got more after decompression"
        raise DataError(message)
    return content


def _examples(images_path: Path, labels_path: Path, mean: float, deviation: float, pool: int) -> Examples:
    images = read_idx(images_path)
    labels = read_idx(labels_path)
    if images.shape[1:] != (_SIZE, _SIZE) or labels.dim() != 1 or len(images) != len(labels):
        message = (
            f"expected images [N, 28, 28] and labels [N], got {list(images.shape)} in {images_path} and "
            f"{list(labels.shape)} in {labels_path}"
        )
        raise DataError(message)
    if len(labels) and int(labels.max()) >= _NUM_CLASSES:
        message = f"expected class labels 0 to {_NUM_CLASSES - 1} in {labels_path}, got {int(labels.max())}"
        raise DataError(message)
    return Examples(normalized(images.unsqueeze(1), mean, deviation, pool=pool), labels.long())
