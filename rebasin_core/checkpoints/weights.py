"""The files in a folder that hold weights, and those that belong to them."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.reading import read_json, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INDEX_SUFFIX = ".index.json"
"""Suffix of the files that list the shard of each tensor."""

WEIGHT_MAP = "weight_map"
"""Entry of an index: file names by the names of tensors."""

# As `transformers` chooses: single files before shards, and safetensors before pickles.
_STANDARD = (
    "model.safetensors",
    "diffusion_pytorch_model.safetensors",
    f"model.safetensors{INDEX_SUFFIX}",
    f"diffusion_pytorch_model.safetensors{INDEX_SUFFIX}",
    "adapter_model.safetensors",
    "pytorch_model.bin",
    "diffusion_pytorch_model.bin",
    f"pytorch_model.bin{INDEX_SUFFIX}",
    "adapter_model.bin",
)
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.npz")
_OF_TRAINING = (
    "optimizer*", "scheduler*", "scaler*", "training_args*", "rng_state*", "random_states*", "trainer_state*",
    "events.out*", "*.log",
)  # fmt: skip
_BELONGING = ("*.json", "*.txt", "*.md", "*.py", "*.model", "*.jinja", "*.tiktoken", "*.bpe", "LICENSE*", "NOTICE*")
_MAX_BELONGING_BYTES = 2**28
_MAX_FILES = 100_000


@final
@dataclass(frozen=True, slots=True)
class FolderWeights:
    """The files in a folder that hold the weights of one network.

    Attributes:
        main: The file of weights, or the index of the shards.
        others: Other files of weights, which are not read.
    """

    main: Path
    others: tuple[Path, ...]

    @property
    def is_index(self) -> bool:
        """Whether the weights are in several files."""
        return self.main.name.endswith(INDEX_SUFFIX)


def files_in(folder: Path) -> list[Path]:
    """Return the regular files in a folder without hidden ones; links are followed.

    Args:
        folder: The folder.

    Returns:
        The files, sorted by name.

    Raises:
        FileFormatError: If the folder has more than 100,000 entries.
    """
    found: list[Path] = []
    for count, path in enumerate(folder.iterdir()):
        if count == _MAX_FILES:
            message = f"{shown(folder)} has more than {_MAX_FILES} files; expected the folder of one network"
            raise FileFormatError(message)
        if not path.name.startswith(".") and path.is_file():
            found.append(path)
    return sorted(found)


def has_weights(folder: Path) -> bool:
    """Return whether a folder contains files of weights.

    Args:
        folder: The folder.

    Returns:
        Whether it does; False if it cannot be read.
    """
    try:
        return bool(_candidates(folder))
    except (OSError, FileFormatError):
        return False


def find_weights(folder: Path) -> FolderWeights:
    """Return the files in a folder that hold the weights.

    Args:
        folder: The folder.

    Returns:
        The files: under standard names if possible, otherwise the only file of weights.

    Raises:
        InvalidInputError: If there are several files of weights, none under a standard name.
        FileFormatError: If there is none.
    """
    found = _candidates(folder)
    if not found:
        message = f"{shown(folder)} contains no file of weights; expected one of {', '.join(_STANDARD[:3])}"
        raise FileFormatError(message)
    by_name = {path.name: path for path in found}
    main = next((by_name[name] for name in _STANDARD if name in by_name), None)
    if main is None:
        indices = [path for path in found if path.name.endswith(INDEX_SUFFIX)]
        safe = [path for path in found if path.name.endswith(".safetensors")]
        choices = indices or safe or found
        if len(choices) > 1:
            message = (
                f"{shown(folder)} contains several files of weights: {shorten([path.name for path in choices])}; give "
                "the path of one of them"
            )
            raise InvalidInputError(message)
        main = choices[0]
    shards = set() if not main.name.endswith(INDEX_SUFFIX) else set(read_weight_map(main).values())
    return FolderWeights(main, tuple(path for path in found if path != main and path.name not in shards))


def read_weight_map(index: Path) -> dict[str, str]:
    """Return the file name of each tensor according to an index.

    Args:
        index: The index file.

    Returns:
        Names of files in the folder of the index, by the names of tensors.

    Raises:
        FileFormatError: If the index is damaged, or names a file in another folder.
    """
    document = read_json(index)
    found = document.get(WEIGHT_MAP) if isinstance(document, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        message = f"{shown(index)}: expected an entry {WEIGHT_MAP!r} with a file name for each tensor"
        raise FileFormatError(message)
    outside = sorted({file for file in found.values() if not _is_plain(file)})
    if outside:
        message = f"{shown(index)}: expected names of files in the same folder, got {shown(outside[0])}"
        raise FileFormatError(message)
    return found


def belonging_to(folder: Path) -> tuple[Path, ...]:
    """Return the files in a folder that belong to its network: configuration, tokenizer, model card, code.

    Args:
        folder: The folder.

    Returns:
        The files, sorted by name; without weights, indices, and files of the training.
    """
    found = files_in(folder)
    return tuple(
        path
        for path in found
        if _matches(path, _BELONGING)
        and not _matches(path, _OF_TRAINING)
        and not path.name.endswith(INDEX_SUFFIX)
        and path.stat().st_size <= _MAX_BELONGING_BYTES
    )


def _candidates(folder: Path) -> Sequence[Path]:
    """Return the files of weights and the indices in a folder."""
    return [
        path
        for path in files_in(folder)
        if (_matches(path, _WEIGHTS) or path.name.endswith(INDEX_SUFFIX)) and not _matches(path, _OF_TRAINING)
    ]


def _matches(path: Path, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(path.name, pattern) for pattern in patterns)


def _is_plain(name: str) -> bool:
    """Return whether a text is the name of a file, without folders."""
    return bool(name) and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\\0:")
