"""Small checkpoint files of every format, as pairs of a reader and a path, for the conformance kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from rebasin_core.checkpoints.safetensors_reader import SafetensorsReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor


def _tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, generator=generator)
    return {"0.weight": weight, "0.bias": weight[:, 0].to(torch.bfloat16), "steps": torch.tensor(7)}


def _safetensors(folder: Path) -> Sequence[object]:
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in _tensors().items()}, path, metadata={"format": "pt"})
    return [(SafetensorsReader(), path)]


CHECKPOINTS: dict[type[object], Callable[[Path], Sequence[object]]] = {SafetensorsReader: _safetensors}
"""Functions that write example files to a folder and return pairs of a reader and a path, by reader."""
