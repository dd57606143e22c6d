"""SHA-256 digests of files, tensors and JSON values."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.tensors.reading import reason, regular_size, shown

if TYPE_CHECKING:
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


def canonical_json(value: object) -> str:
    """Return the canonical JSON text of a value: keys sorted, no spaces, ASCII characters only.

    Args:
        value: A value that JSON can represent.

    Returns:
        The text; equal values have equal texts, and parsing the text returns an equal value.

    Raises:
        InvalidInputError: If the value contains NaN, infinities, keys that are not strings, or other objects.
    """
    return _json(value, sort_keys=True)


def ordered_json(value: object) -> str:
    """Return the compact JSON text of a value, with the keys of mappings in their order.

    Args:
        value: A value that JSON can represent.

    Returns:
        The text; parsing it returns an equal value with the same order.

    Raises:
        InvalidInputError: If the value contains NaN, infinities, keys that are not strings, or other objects.
    """
    return _json(value, sort_keys=False)


def _json(value: object, *, sort_keys: bool) -> str:
    try:
        text = json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        message = f"expected a value that JSON can represent, with null for NaN: {reason(error)}"
        raise InvalidInputError(message) from error
    return text


def digest_of_json(value: object) -> str:
    """Return the SHA-256 of the canonical JSON of a value.

    Args:
        value: A value that JSON can represent.

    Returns:
        The digest in hexadecimal digits.
    """
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _plain(value: object) -> object:
    """Return a mapping as a dictionary, which `json` requires."""
    if isinstance(value, Mapping):
        return dict(value)
    message = f"objects of type {type(value).__name__} are not JSON"
    raise TypeError(message)
