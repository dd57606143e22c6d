"""Descriptions of files and folders that no reader recognizes, with a remedy."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING

from rebasin_core.checkpoints.unreadable_folders import unreadable_folder
from rebasin_core.checkpoints.zip_directory import ZIP_MAGIC, zip_names
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

_NUM_SHOWN_BYTES = 16
_TAR_MAGIC_AT = 257
_JSON_SCHEMA_KEYS = (b'"model_type"', b'"architectures"', b'"_class_name"')
# The first bytes of files; formats with a common start are in `_KINDS`.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull` in its repository"),
    (
        b"GGUF",
        "a GGUF file (llama.cpp), whose weights are usually quantized",
        (
            "use the checkpoint that it was converted from, or dequantize it: "
            "`AutoModelForCausalLM.from_pretrained(folder, gguf_file=name).save_pretrained(output)` of transformers"
        ),
    ),
    (b"ggml", "a file of an old version of GGML", "use the checkpoint that it was converted from"),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, as by Keras",
        "load it with its program, and write one array for each tensor with `numpy.savez`",
    ),
    (b"\x93NUMPY", "a single NumPy array (.npy) without a name", "write named arrays with `numpy.savez`"),
    (b"\x1f\x8b", "compressed with gzip", "decompress it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard", "decompress it first"),
    (b"\xfd7zXZ\x00", "compressed with xz", "decompress it first"),
    (b"BZh", "compressed with bzip2", "decompress it first"),
    (b"7z\xbc\xaf'\x1c", "a 7z archive", "extract it first"),
    (b"%PDF", "a PDF file", "expected a checkpoint"),
)


def unreadable(path: Path, head: bytes) -> str:
    """Return a message about a file or folder that no reader recognizes.

    Args:
        path: The file or folder.
        head: First bytes of the file; empty for a folder.

    Returns:
        The format that it appears to have, and how to convert it.
    """
    kind, remedy = _kind(path, head)
    return f"cannot read {shown(path)}: it is {kind}; {remedy}"


def _kind(path: Path, head: bytes) -> tuple[str, str]:
    if path.is_dir():
        return unreadable_folder(path)
    for magic, kind, remedy in _MAGIC:
        if head.startswith(magic):
            return kind, remedy
    for matches, kind, remedy in _KINDS:
        if matches(head):
            return kind, remedy
    if head.startswith(ZIP_MAGIC):
        return _zip_kind(zip_names(path))
    return f"of an unknown format that starts with {head[:_NUM_SHOWN_BYTES]!r}", "expected a checkpoint"


def _zip_kind(names: Sequence[str]) -> tuple[str, str]:
    """Return the kind of a zip archive that is not one of `torch.save` or NumPy."""
    files = {name.rpartition("/")[2] for name in names}
    if not names:
        return "a zip archive (.pt, .npz) without a readable directory", "it is damaged or truncated; copy it again"
    if "constants.pkl" in files:
        return (
            "a TorchScript archive, which contains code",
            "save its tensors where you trust it: `torch.save(torch.jit.load(path).state_dict(), output)`",
        )
    if "model.weights.h5" in files:
        return (
            "a Keras archive",
            "load it with Keras, and write one array for each tensor with `numpy.savez`",
        )
    if any("archive_format" in file for file in files):
        return (
            "an exported program (`torch.export.save`)",
            "save its tensors where you trust it: `torch.save(torch.export.load(path).state_dict, output)`",
        )
    return f"a zip archive with {shorten(sorted(names), 3)}", "extract it first"


def _is_html(head: bytes) -> bool:
    return re.match(rb"\s*(<!doctype html|<html)", head, re.IGNORECASE) is not None


def _is_damaged_safetensors(head: bytes) -> bool:
    return b'"data_offsets"' in head or b'"dtype":"' in head


def _is_configuration(head: bytes) -> bool:
    return head.lstrip().startswith(b"{") and any(key in head for key in _JSON_SCHEMA_KEYS)


def _is_tar(head: bytes) -> bool:
    return head[_TAR_MAGIC_AT:].startswith(b"ustar")


def _is_pickle(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}


def _is_onnx(head: bytes) -> bool:
    """Return whether a file is a protocol buffer that starts like an ONNX model: version 3 to 31, then a text."""
    return re.match(rb"\x08[\x03-\x1f](\x12|\x3a|\x42)", head) is not None


def _is_saved_model(head: bytes) -> bool:
    return head.startswith(b"\x08\x01\x12")


def _is_message_pack(head: bytes) -> bool:
    """Return whether a file starts like a map of MessagePack with a text as its first key."""
    return re.match(rb"([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.)[\w./]", head, re.DOTALL) is not None


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "replace")
    # The last character may be cut off.
    return all(character.isprintable() or character.isspace() for character in text[:-1]) and "\ufffd" not in text[:-1]


_KINDS: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (operator.not_, "empty", "the download or copy was interrupted; copy it again"),
    (_is_html, "an HTML page", "the download returned a page, for example to log in; download the file again"),
    (_is_damaged_safetensors, "a damaged safetensors file", "copy or download it again"),
    (_is_configuration, "the configuration of a network", "give the path of its folder, or of the file of weights"),
    (_is_tar, "a tar archive", "extract it first"),
    (
        _is_pickle,
        "a Python pickle that `torch.save` did not write; pickles can execute code and are not read",
        "load it where you trust it, and save the tensors: `torch.save(state_dict, path)`",
    ),
    (
        _is_saved_model,
        "a TensorFlow SavedModel",
        "load it with TensorFlow, and write one array for each tensor with `numpy.savez`",
    ),
    (
        _is_onnx,
        "an ONNX model",
        "use the checkpoint that it was exported from, or write its initializers with `numpy.savez`",
    ),
    (
        _is_message_pack,
        "a MessagePack file, as by Flax",
        "write one array for each tensor with `numpy.savez`",
    ),
    (_is_text, "a text file", "expected a checkpoint"),
)
