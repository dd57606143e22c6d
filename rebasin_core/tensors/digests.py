"""SHA-256 digests of files and tensors."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.reading import reason, regular_size, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


def digest_of_file(path: Path | str) -> str:
    """Return the SHA-256 of a file's content.

    Args:
        path: Path of a regular file.

    Returns:
        The digest in hexadecimal digits.

    Raises:
        FileFormatError: If the file cannot be read.
    """
    regular_size(path)
    try:
        with Path(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        message = f"cannot read {shown(Path(path))}: {reason(error)}"
        raise FileFormatError(message) from error


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of the names, shapes, dtypes and entries of tensors; it does not depend on their device.

    Args:
        tensors: Tensors by name, in any order.

    Returns:
        The digest in hexadecimal digits; equal for tensors that are bitwise equal.
    """
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        # As bytes, since NumPy does not support all dtypes.
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
