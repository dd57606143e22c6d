"""Small checkpoint files of every format, as pairs of a reader and a path, for the conformance kit."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save_file

from rebasin_core.checkpoints.folder_reader import FolderReader
from rebasin_core.checkpoints.npz_reader import NpzReader
from rebasin_core.checkpoints.safetensors_reader import SafetensorsReader
from rebasin_core.checkpoints.torch_reader import TorchReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor


def _tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator)
    return {"0.weight": weight, "0.bias": weight[:, 0].to(torch.bfloat16), "steps": torch.tensor(7)}


def _contiguous() -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in _tensors().items()}


def _safetensors(folder: Path) -> Sequence[object]:
    path = folder / "model.safetensors"
    save_file(_contiguous(), path, metadata={"format": "pt"})
    return [(SafetensorsReader(), path)]


def _torch(folder: Path) -> Sequence[object]:
    plain, nested, legacy = folder / "model.pt", folder / "last.ckpt", folder / "old.pth"
    torch.save(_tensors(), plain)
    torch.save({"state_dict": _tensors(), "epoch": 3, "optimizer_states": [{"state": {}}]}, nested)
    torch.save(_tensors(), legacy, _use_new_zipfile_serialization=False)
    return [(TorchReader(), path) for path in (plain, nested, legacy)]


def _npz(folder: Path) -> Sequence[object]:
    stored, compressed = folder / "stored.npz", folder / "compressed.npz"
    arrays: dict[str, Any] = {n: t.numpy() for n, t in _tensors().items() if t.dtype != torch.bfloat16}
    np.savez(stored, **arrays)
    np.savez_compressed(compressed, **arrays)
    return [(NpzReader(), path) for path in (stored, compressed)]


def _folders(folder: Path) -> Sequence[object]:
    tensors = _contiguous()
    single, sharded, pickled = folder / "single", folder / "sharded", folder / "pickled"
    for target in (single, sharded, pickled):
        target.mkdir()
        (target / "config.json").write_text('{"model_type": "mlp"}', encoding="utf-8")
    save_file(tensors, single / "model.safetensors", metadata={"format": "pt"})
    torch.save(tensors, pickled / "pytorch_model.bin")
    shards = {name: f"model-{number:05d}-of-00003.safetensors" for number, name in enumerate(tensors, start=1)}
    for name, file in shards.items():
        save_file({name: tensors[name]}, sharded / file, metadata={"format": "pt"})
    index = sharded / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 64}, "weight_map": shards}), encoding="utf-8")
    return [(FolderReader(), path) for path in (single, sharded, pickled)]


CHECKPOINTS: dict[type[object], Callable[[Path], Sequence[object]]] = {
    FolderReader: _folders,
    NpzReader: _npz,
    SafetensorsReader: _safetensors,
    TorchReader: _torch,
}
"""Functions that write example files to a folder and return pairs of a reader and a path, by reader."""
