"""Reader of folders and sharded files, as `transformers`, `diffusers` and `peft` write them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

from typing_extensions import override

from rebasin_core.checkpoints.base import HEAD_BYTES, CheckpointReader, require_no_entry
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.npz_reader import NpzReader
from rebasin_core.checkpoints.safetensors_reader import SafetensorsReader
from rebasin_core.checkpoints.torch_reader import TorchReader
from rebasin_core.checkpoints.unreadable import unreadable
from rebasin_core.checkpoints.weights import (
    WEIGHT_MAP,
    belonging_to,
    find_weights,
    has_weights,
    read_weight_map,
)
from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.reading import exists, read_json, regular_size, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

_CONFIG = "config.json"
_READERS: tuple[CheckpointReader, ...] = (SafetensorsReader(), TorchReader(), NpzReader())


@final
class FolderReader(CheckpointReader):
    """Reads a folder with weights, configuration and tokenizer, or the index of sharded weights.

    Weights are in ``model.safetensors``, its shards with ``model.safetensors.index.json``, ``pytorch_model.bin``, its
    shards, or the only other file of weights. Other files that belong to the network are listed, and code among them is
    not executed.
    """

    name: Literal["folder"] = "folder"

    @override
    def recognizes(self, path: Path, head: bytes) -> bool:
        if path.is_dir():
            return has_weights(path)
        return head.lstrip().startswith(b"{") and f'"{WEIGHT_MAP}"'.encode() in head

    @override
    def _read(self, path: Path, entry: str | None) -> Checkpoint:
        if not path.is_dir():
            require_no_entry(path, entry, "an index of shards")
            return self._checkpoint(path, _read_shards(path), None)
        weights = find_weights(path)
        if weights.is_index:
            require_no_entry(path, entry, "a folder with sharded weights")
            loaded = _read_shards(weights.main)
        else:
            loaded = _read_file(weights.main, entry)
        loaded.ignored.update({other.name: "another file of weights" for other in weights.others})
        config = read_json(path / _CONFIG) if exists(path / _CONFIG) else None
        return self._checkpoint(path, loaded, config)

    def _checkpoint(self, path: Path, loaded: _Loaded, config: object) -> Checkpoint:
        if config is not None and not isinstance(config, dict):
            message = f"{shown(path / _CONFIG)}: expected a JSON object, got {type(config).__name__}"
            raise FileFormatError(message)
        return Checkpoint(
            path,
            self.name,
            loaded.tensors,
            files=loaded.files,
            shards=loaded.shards,
            metadata=loaded.metadata,
            companions=belonging_to(path) if path.is_dir() else (),
            config=config,
            entry=loaded.entry,
            ignored=loaded.ignored,
        )


@final
@dataclass
class _Loaded:
    """Tensors of one or several files."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    shards: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    entry: tuple[str, ...] = ()
    ignored: dict[str, str] = field(default_factory=dict)

    def add(self, part: Checkpoint, names: Mapping[str, Any]) -> None:
        """Add those tensors of a file that are among given names."""
        for name, tensor in part.tensors.items():
            if name in names:
                self.tensors[name] = tensor
                self.shards[name] = part.path.name
        other = len(part.tensors.keys() - names.keys())
        if other:
            self.ignored[part.path.name] = f"{other} tensors that the index does not list"
        self.ignored |= {f"{part.path.name}.{key}": value for key, value in part.ignored.items()}
        self.metadata = {**part.metadata, **self.metadata}
        self.files = (*self.files, part.path)


def _read_file(path: Path, entry: str | None) -> _Loaded:
    found = _part(path, entry)
    return _Loaded(
        dict(found.tensors),
        dict(found.shards),
        dict(found.metadata),
        found.files,
        found.entry,
        dict(found.ignored),
    )


def _read_shards(index: Path) -> _Loaded:
    """Read the shards that an index lists."""
    weight_map = read_weight_map(index)
    files = [index.parent / name for name in sorted(set(weight_map.values()))]
    missing = [file.name for file in files if not exists(file)]
    if missing:
        message = (
            f"{shown(index)}: {len(missing)} of {len(files)} shards are missing: {shorten(missing)}; download them "
            "into the same folder"
        )
        raise FileFormatError(message)
    loaded = _Loaded()
    for file in files:
        listed = {name: shard for name, shard in weight_map.items() if shard == file.name}
        loaded.add(_part(file, None), listed)
        absent = sorted(listed.keys() - loaded.tensors.keys())
        if absent:
            message = f"{shown(file)}: the index lists tensors that it does not contain: {shorten(absent)}"
            raise FileFormatError(message)
    return loaded


def _part(path: Path, entry: str | None) -> Checkpoint:
    """Open one file of weights by the format of its content."""
    regular_size(path)
    with path.open("rb") as handle:
        head = handle.read(HEAD_BYTES)
    reader = next((reader for reader in _READERS if reader.recognizes(path, head)), None)
    if reader is None:
        raise FileFormatError(unreadable(path, head))
    return reader.read(path, entry=entry)
