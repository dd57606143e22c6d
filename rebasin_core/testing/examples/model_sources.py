"""Small models with their checkpoints, as pairs of a source and a checkpoint, for the conformance kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typing_extensions import override

from rebasin_core.checkpoints.factory_source import FactoryModelSource
from rebasin_core.checkpoints.safetensors_reader import SafetensorsReader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


class TiedNetwork(nn.Module):
    """A network with tied weights, batch statistics, and a table that is in no state dict."""

    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.back = nn.Linear(8, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("table", torch.linspace(1.0, 2.0, 5).reshape(5, 1), persistent=False)

    @override
    def forward(self, numbers: Tensor) -> Tensor:
        """Return scores of the next number."""
        embedded = self.embedding(numbers) * self.table
        hidden = self.norm(self.hidden(embedded).transpose(1, 2)).relu().transpose(1, 2)
        scores: Tensor = self.head(self.back(hidden))
        return scores


def _factory(folder: Path) -> Sequence[object]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        tensors = TiedNetwork().state_dict()
    path = folder / "model.safetensors"
    save_file({name: tensor for name, tensor in tensors.items() if name != "head.weight"}, path)
    source = FactoryModelSource(factory=f"{__name__}:{TiedNetwork.__name__}", inputs=("2,5:int<11",))
    return [(source, SafetensorsReader().read(path))]


MODEL_SOURCES: dict[type[object], Callable[[Path], Sequence[object]]] = {FactoryModelSource: _factory}
"""Functions that write example files to a folder and return pairs of a source and a checkpoint, by source."""
