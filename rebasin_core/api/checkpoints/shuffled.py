"""Shuffled copies of networks, to measure how well a matcher aligns networks that have no common structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from rebasin_core.checkpoints.writing import TensorInfo, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def shuffled_network(tensors: Mapping[str, Tensor], file: Path, *, seed: int = 0) -> dict[str, Tensor]:
    """Return a copy of a network with every axis of each tensor permuted by a random permutation of its own.

    The singular values of matrices, and the norms of rows and columns, are those of the network. But no unit of a layer
    is related to a unit of the next layer, to an input or to an output. A matcher that aligns another network with this
    copy finds coincidences only.

    Args:
        tensors: The network.
        file: File for the copy, which is written and mapped to memory; the caller deletes it.
        seed: Seed of the permutations.

    Returns:
        The copy.

    Raises:
        StorageError: If the file cannot be written.
    """
    names = list(tensors)

    def produce(name: str) -> Tensor:
        generator = torch.Generator().manual_seed(seed * len(names) + names.index(name))
        return _shuffled(tensors[name], generator)

    infos = {name: TensorInfo(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_checkpoint(file, infos, produce)
    with safe_open(file, framework="pt") as handle:
        return {name: handle.get_tensor(name) for name in names}


def _shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    for dim, size in enumerate(tensor.shape):
        tensor = tensor.index_select(dim, torch.randperm(size, generator=generator))
    return tensor
