"""Descriptions of folders without weights that a reader recognizes, with a remedy."""

from __future__ import annotations

import fnmatch
from typing import TYPE_CHECKING

from rebasin_core.checkpoints.weights import has_weights
from rebasin_core.tensors.checks import shorten

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MAX_ENTRIES = 1000
_KERAS = "load it with Keras, and write one array for each tensor with `numpy.savez`"
# Patterns of names in a folder, its kind, and a remedy.
_FOLDERS: tuple[tuple[str, str, str], ...] = (
    (
        "*.distcp",
        "a distributed checkpoint (`torch.distributed.checkpoint`)",
        "convert it: `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUTPUT.pt`",
    ),
    (
        "zero_pp_rank_*",
        "a checkpoint of DeepSpeed ZeRO",
        "convert it with the script `zero_to_fp32.py` that DeepSpeed writes next to it",
    ),
    (
        "global_step*",
        "a checkpoint of DeepSpeed",
        "convert it with the script `zero_to_fp32.py` that DeepSpeed writes next to it",
    ),
    ("*.gguf", "a folder of GGUF files", "use the checkpoint that they were converted from"),
    (
        "flax_model*.msgpack",
        "a Flax checkpoint",
        "convert it: `AutoModel.from_pretrained(folder, from_flax=True).save_pretrained(output)` of transformers 4",
    ),
    (
        "tf_model*.h5",
        "a TensorFlow checkpoint",
        "convert it: `AutoModel.from_pretrained(folder, from_tf=True).save_pretrained(output)` of transformers 4",
    ),
    (
        "saved_model.pb",
        "a TensorFlow SavedModel",
        "load it with TensorFlow, and write one array for each tensor with `numpy.savez`",
    ),
    (
        "*.ckpt.index",
        "a TensorFlow checkpoint",
        "load it with TensorFlow, and write one array for each tensor with `numpy.savez`",
    ),
    ("*.keras", "a folder of Keras models", _KERAS),
    ("*.h5", "a folder of Keras models", _KERAS),
    ("*.onnx", "a folder of ONNX models", "use the checkpoint that they were exported from"),
)


def unreadable_folder(folder: Path) -> tuple[str, str]:
    """Return the kind of a folder without weights that a reader recognizes, and a remedy.

    Args:
        folder: The folder.

    Returns:
        A description of its kind, and advice.
    """
    entries = _entries(folder)
    names = [path.name for path in entries]
    for pattern, kind, remedy in _FOLDERS:
        if fnmatch.filter(names, pattern):
            return kind, remedy
    if not names:
        return "an empty folder, or one that cannot be read", "expected a folder with model.safetensors"
    inner = sorted(path.name for path in entries if path.is_dir() and has_weights(path))
    if inner:
        kind = "a pipeline of several networks" if "model_index.json" in names else "a folder of several checkpoints"
        return kind, f"give the path of one of its folders: {shorten(inner)}"
    return (
        f"a folder without weights; it has {shorten(sorted(names), 4)}",
        "expected model.safetensors, its shards with model.safetensors.index.json, or pytorch_model.bin",
    )


def _entries(folder: Path) -> Sequence[Path]:
    try:
        return [path for path, _ in zip(sorted(folder.iterdir()), range(_MAX_ENTRIES), strict=False)]
    except OSError:
        return ()
