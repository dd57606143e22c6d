"""CIFAR-10 in its published binary format."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt, field_validator
from typing_extensions import override

from rebasin_core.data.base import DataSource, DataSplits, Target
from rebasin_core.data.examples import Examples
from rebasin_core.data.files import RemoteFile, find_file, read_bytes, require_file
from rebasin_core.data.images import normalized, require_divisible
from rebasin_core.errors import DataError, StorageError
from rebasin_core.tensors.files import write_bytes

_FOLDER = "cifar-10-batches-bin"
_TRAIN = tuple(f"data_batch_{k}.bin" for k in range(1, 6))
_TEST = "test_batch.bin"
_ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c32a1d4ab5d03f1284b67883e8d87530",
)
# Bytes per record: the class label, and three channels of 32 x 32 pixels.
_SIZE = 32
_RECORD = 1 + 3 * _SIZE**2
_LARGEST = 10_000 * _RECORD
_NUM_CLASSES = 10
_MEAN = (0.4914, 0.4822, 0.4465)
_DEVIATION = (0.2470, 0.2435, 0.2616)


@final
class CIFAR10Source(DataSource):
    """CIFAR-10: color images of 32 x 32 pixels in 10 classes, 50,000 for training and 10,000 for testing.

    Inputs ``[N, 3, 32, 32]`` are ``(x / 255 - mean) / deviation`` for each channel.

    Raises:
        ConfigError: If an option is invalid.

    References:
        A. Krizhevsky (2009), "Learning multiple layers of features from tiny images".

    Examples:
        >>> CIFAR10Source(root="no/such/folder").load()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        rebasin_core.errors.MissingDataError: no data file 'data_batch_1.bin'; looked for ...
    """

    name: Literal["cifar10"] = "cifar10"

    root: Path = Path("data")
    """Folder ``cifar-10-batches-bin`` (binary version), or a folder that contains it."""

    download: bool = False
    """Whether to download the archive if files are missing, verify it, and unpack it into ``root``."""

    mean: tuple[float, float, float] = _MEAN
    """Mean to subtract from each channel, for pixels in [0, 1]; by default that of the training images."""

    deviation: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = _DEVIATION
    """Standard deviation by which to divide each channel, for pixels in [0, 1]; by default that of the training
    images."""

    pool: PositiveInt = 1
    """Side of the squares of pixels that are averaged: 2 for images of 16 x 16. A divisor of 32."""

    @field_validator("pool")
    @classmethod
    def _divides(cls, pool: int) -> int:
        return require_divisible(pool, _SIZE)

    @override
    def _load(self) -> DataSplits:
        folders = (_FOLDER, ".")
        if self.download and find_file(self.root, folders, (_TRAIN[0],)) is None:
            archive = require_file(self.root, (".",), (_ARCHIVE.name,), remote=_ARCHIVE, download=True)
            _unpack(archive, self.root / _FOLDER)
        train = [require_file(self.root, folders, (name,), remote=None, download=False) for name in _TRAIN]
        test = require_file(self.root, folders, (_TEST,), remote=None, download=False)
        return DataSplits(self._examples(train), self._examples([test]), Target("classification", _NUM_CLASSES))

    def _examples(self, paths: list[Path]) -> Examples:
        images, labels = _read(paths)
        mean = torch.tensor(self.mean).reshape(3, 1, 1)
        deviation = torch.tensor(self.deviation).reshape(3, 1, 1)
        return Examples(normalized(images, mean, deviation, pool=self.pool), labels)


def _read(paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images ``[N, 3, 32, 32]`` as bytes, and their class labels ``[N]``."""
    labels, images = [], []
    for path in paths:
        raw = np.frombuffer(read_bytes(path), np.uint8)
        if not len(raw) or len(raw) % _RECORD:
            message = (
                f"expected records of {_RECORD} bytes in {path}, got {len(raw)} bytes; the file is truncated or not a "
                "CIFAR-10 file"
            )
            raise DataError(message)
        records = raw.reshape(-1, _RECORD)
        if records[:, 0].max() >= _NUM_CLASSES:
            message = f"expected class labels 0 to {_NUM_CLASSES - 1} in {path}, got {records[:, 0].max()}"
            raise DataError(message)
        labels.append(torch.from_numpy(records[:, 0].astype(np.int64)))
        images.append(torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy()))
    return torch.cat(images), torch.cat(labels)


def _unpack(archive: Path, folder: Path) -> None:
    """Extract the batch files of an archive by their base names, which ignores directories in member names."""
    try:
        with tarfile.open(archive) as content:
            for member in content.getmembers():
                name = Path(member.name).name
                stream = content.extractfile(member) if name in {*_TRAIN, _TEST} else None
                if stream is not None:
                    write_bytes(folder / name, stream.read(_LARGEST))
    except StorageError:  # an OSError, too
        raise
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        message = f"{archive} is damaged: {error}. Remove the file and download it again"
        raise DataError(message) from error
